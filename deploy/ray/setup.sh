#!/usr/bin/env bash
# setup.sh cpu, cu126 or cu130: into ~/netsieve-env what a worker needs, with that build of torch. setup.sh WHEEL: netsieve as
# well, which the head alone needs, for it brings its code to the workers. In the versions that the tests ran with.
# `ray up` runs this, again when a file that it mounts has changed.
set -euo pipefail

what=${1:?which build of torch (cpu, cu126 or cu130), or which wheel of netsieve beside this file}
cd "$(dirname "$0")"
install=(~/netsieve-env/bin/python -m pip install --quiet --disable-pip-version-check)
case $what in
*.whl)
    "${install[@]}" -c constraints.txt "./${what}[parquet,report]"
    "${install[@]}" --no-deps --force-reinstall "./$what" # also if it has the version of the one before
    ;;
*)
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "netsieve needs Python 3.11 or newer")'
    python3 -m venv ~/netsieve-env
    sed -nE "s/^(torch|torchvision)==.*/&+$what/p; s/^(numpy|ray)==/&/p" constraints.txt |
        "${install[@]}" --extra-index-url "https://download.pytorch.org/whl/$what" -c constraints.txt -r /dev/stdin
    ;;
esac
