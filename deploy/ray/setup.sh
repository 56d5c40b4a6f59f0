#!/usr/bin/env bash
# setup.sh TORCH WHEEL: netsieve in ~/netsieve-env, with the versions that its tests ran with. `ray up` runs it on every
# node, again when a file that it mounts has changed.
set -euo pipefail

torch=${1:?which build of torch: cpu, cu126 or cu130}
wheel=${2:?which wheel of netsieve, beside this file}
cd "$(dirname "$0")"

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "netsieve needs Python 3.11 or newer")'
python3 -m venv ~/netsieve-env
pins=$(mktemp)
trap 'rm "$pins"' EXIT
sed -nE "s/^(torch|torchvision)==.*/&+$torch/p" constraints.txt >"$pins"
install=(~/netsieve-env/bin/python -m pip install --quiet --disable-pip-version-check)
"${install[@]}" --extra-index-url "https://download.pytorch.org/whl/$torch" -c constraints.txt -r "$pins" "./${wheel}[parquet,report]"
"${install[@]}" --no-deps --force-reinstall "./$wheel" # also if it has the version of the one before
