"""The Ray cluster: a session of this machine's own, or one that is there and is joined; its nodes, its head.

With ray_executor.py the only file that imports ray. To a cluster that is joined the coordinator brings its own code:
Ray uploads the two packages that a worker needs, and nothing else, so only ray, torch, torchvision and numpy have to be
installed there. Ray compares its own version and Python's when a driver joins; ``versions`` is for the rest.

What can be wrong with an address is found before ``ray.init`` sees it, for that waits for minutes, and says little.
"""

import contextlib
import functools
import hashlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import search
from search.candidates import clean_error
from search.errors import SettingsError, Stopped
from workers.executors import cores

# Before ray is imported: no usage statistics, and no upload of the working directory under `uv run`.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

# Also before: `ray start` turns token authentication on where a token lies, a driver that joins does not.
# Once ray is imported its mode is settled, and another one in the environment would only mislead its servers.
TOKEN_FILE = Path.home() / ".ray" / "auth_token"
_has_token = TOKEN_FILE.exists() or os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
if _has_token and "ray" not in sys.modules:
    os.environ.setdefault("RAY_AUTH_MODE", "token")

import ray
from ray.exceptions import RayError

JOIN_TIMEOUT_S = 10.0  # for the head to answer, and likewise for this machine's own node
PROBE_TIMEOUT_S = 0.5  # for a head that has answered before
LEAVE_TIMEOUT_S = 3.0  # likewise, when this is the last that is asked of it
WAIT_S = 1.0  # between two looks whether a cluster has cores
LITTLE_ROOM_BYTES = 16 * 2**20  # on the disk of Ray's logs: with less, that may be why Ray fails
OBJECT_STORE_BYTES = 256 * 2**20  # of a local session; it holds the dataset's few thousand images
PRELOAD = "RAY_preload_python_modules"
GPUS = Path("/proc/driver/nvidia/gpus")  # where Linux lists them, if there are any
PACKAGES = tuple(Path(package).parent for package in (search.__file__, __file__))  # what workers import of netsieve
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # RFC 9113, 3.4: and SETTINGS, none
SETTINGS_FRAME = 4
FRAME_BYTES = 9  # of a frame's head (RFC 9113, 4.1)

RAY_FAILS = (RayError, OSError, RuntimeError, ValueError)  # what Ray's calls raise when a cluster is lost

Address = tuple[str, int]


# ------------------------------------------------------------------ the session


def token_file() -> Path:
    """Where Ray looks for the token of a cluster, unless the environment has it."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE)


def temp_dir() -> Path:
    """The folder in which a local session keeps its sockets and logs: RAY_TMPDIR, TMPDIR or the system's."""
    private: Any = ray._common.utils  # noqa: SLF001  there is no public way
    find = getattr(private, "get_default_system_temp_dir", tempfile.gettempdir)
    return Path(os.environ.get("RAY_TMPDIR") or find())


def no_room() -> str:
    """What to do about a full disk, if that may be why Ray fails: it does not say so itself."""
    try:
        free = shutil.disk_usage(temp_dir()).free
    except OSError as error:
        return f"; {temp_dir()}, where Ray keeps its logs: {error.strerror}; set RAY_TMPDIR"
    if free >= LITTLE_ROOM_BYTES:
        return ""
    return f"; {temp_dir()}, where Ray keeps its logs, has {free / 2**20:.1f} MiB left: make room, or set RAY_TMPDIR"


def disconnect() -> None:
    """Leave the cluster; end a local session. A head that does not answer is not asked: see ``exit_with``."""
    if not ray.is_initialized() or head_answers(head(), LEAVE_TIMEOUT_S):
        ray.shutdown()


def exit_with(code: int) -> NoReturn:
    """End this process; at once where Python's own end would wait for a cluster that was lost."""
    if ray.is_initialized() and not head_answers(head(), LEAVE_TIMEOUT_S):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # full, or closed
                stream.flush()
        os._exit(code)
    sys.exit(code)


def library_version() -> str:
    """The version of Ray."""
    return str(ray.__version__)


@contextlib.contextmanager
def without_credentials() -> Iterator[None]:
    """Keep what opens the database from processes that are started inside, and from Ray's records.

    Takes NETSIEVE_DB and libpq's PG* variables out of this process's environment, which Ray's processes
    inherit, and the command line, where --db may stand, out of what Ray records as the job's entrypoint.
    Workers return values and never open the database. Not for use beside threads that read these variables.
    """
    names = [name for name in os.environ if name == "NETSIEVE_DB" or name.startswith("PG")]
    taken = {name: os.environ.pop(name) for name in names}
    private: Any = ray._private.utils  # noqa: SLF001  there is no public way
    try:
        with _in_place_of(private, "get_entrypoint_name", lambda: "netsieve"):
            yield
    finally:
        os.environ.update(taken)


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Have SIGTERM handled afterwards as it was before: ray.init takes it twice, in Python and in C++."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _in_their_own_groups() -> Iterator[None]:
    """Start Ray's servers in process groups of their own, where they end with this process all the same.

    A SIGTERM to the whole group, as schedulers and terminals send it, would end them while what is in training
    is finished, and Ray ends a driver that has lost its raylet with exit code 1.
    """
    private: Any = ray._private  # noqa: SLF001  there is no public way
    popen = getattr(private.services, "ConsolePopen", None)
    shares_fate = getattr(private.utils, "detect_fate_sharing_support", lambda: False)
    if popen is None or not shares_fate():
        yield
        return
    with _in_place_of(private.services, "ConsolePopen", functools.partial(popen, process_group=0)):
        yield


@contextlib.contextmanager
def _without_idle_servers() -> Iterator[None]:
    """Start none of the servers that nobody asks in a local session; starting them takes seconds of two cores.

    The dashboard's, for which ray.init would wait although it shows nothing (include_dashboard=False starts it all
    the same), the autoscaler's monitor, and the one that copies workers' logs to the driver.
    """
    private: Any = ray._private  # noqa: SLF001  there is no public way
    places = [
        (private.services, "start_api_server", lambda *_, **__: (None, None)),  # as where it fails, which is no error
        (private.node.Node, "start_monitor", lambda *_: None),
        (private.node.Node, "start_log_monitor", lambda *_: None),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, nothing in places:
            stack.enter_context(_in_place_of(owner, name, nothing))
        yield


@contextlib.contextmanager
def _in_place_of(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Put something in an attribute's place for a while; where another Ray has none of that name it does as it does."""
    if not hasattr(owner, name):
        yield
        return
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _preloading() -> Iterator[None]:
    """Have torch imported, while Ray starts, by the processes that it starts then; one a core, each to be a worker.

    A setting of Ray's own; in the environment, where a Ray that does not know it leaves it alone.
    """
    is_given = PRELOAD in os.environ or GPUS.exists()
    if not is_given:
        os.environ[PRELOAD] = "workers.training"
    try:
        yield
    finally:
        if not is_given:
            del os.environ[PRELOAD]


def _start_session(cores: int, quiet: dict[str, Any]) -> None:
    """A local session, without a dashboard, that ends with this process."""
    is_new = not TOKEN_FILE.exists()
    try:
        with without_credentials(), _handlers_kept(), _in_their_own_groups(), _without_idle_servers(), _preloading():
            ray.init(
                address="local",
                num_cpus=cores,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                **quiet,
            )
    except (ConnectionError, RayError, RuntimeError, ValueError, OSError) as error:
        raise Stopped(
            f"Ray does not start ({clean_error(error)}){no_room()}; netsieve doctor looks for the cause, "
            "--workers 0 trains without it"
        ) from None
    if is_new and TOKEN_FILE.exists():
        TOKEN_FILE.chmod(0o600)  # Ray leaves the session's secret readable for everyone


def connect(address: str | None, workers: int | None) -> None:
    """Join the Ray cluster at ``address``, or start a local session that ends with this process.

    Call it from the main thread: signal handlers are left as they are. Raises within half a minute: SettingsError when
    the address, the token or the versions are wrong, Stopped when nothing answers, or a local session does not start.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        _start_session(workers or cores(), quiet)
    else:
        _join(address, quiet)


# ------------------------------------------------------------------ joining a cluster


def _join(address: str, quiet: dict[str, Any]) -> None:
    """Become a driver of a cluster, through this machine's node of it, and bring the code for its workers."""
    said = f"--ray-address {address}"
    host, port = _resolved(address, said)
    at = _written(_require_head(host, port, said), port)
    with tempfile.TemporaryFile() as murmur, tempfile.TemporaryDirectory() as folder:
        code = {"py_modules": [_copied(package, Path(folder)) for package in PACKAGES]}
        empty = Path(folder) / "empty"
        empty.mkdir()
        try:
            with (
                without_credentials(),
                _handlers_kept(),
                _waiting_less(),
                _stderr_into(murmur.fileno()),
                _within(empty),
            ):
                ray.init(address=at, runtime_env=code, **quiet)
        except (RayError, OSError, RuntimeError, ValueError) as error:
            murmur.seek(0)
            heard = f"{error}\n{error.__context__}\n{murmur.read().decode(errors='replace')}"
            why = _why_not(heard, at) or f"that cluster cannot be joined ({clean_error(error)})"
            raise SettingsError(f"{said}: {why}") from None


def _copied(package: Path, folder: Path) -> str:
    """A package without the command line, which no worker needs."""
    target = folder / package.name
    shutil.copytree(package, target, ignore=shutil.ignore_patterns("cli", "__pycache__"))
    return str(target)


@contextlib.contextmanager
def _within(folder: Path) -> Iterator[None]:
    """Be in a folder meanwhile: Ray has workers look for modules in the driver's before anything else."""
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(Path(path).expanduser().absolute())
    with contextlib.chdir(folder):
        yield


def _why_not(said: str, at: str) -> str | None:
    """What is wrong, and what to do, if what Ray said and logged is something that is known."""
    if any(words in said for words in ("InvalidAuthToken", "RAY_AUTH_TOKEN", "uthentication token")):
        return (
            "the cluster asks for its token, and this machine has none or another one: RAY_AUTH_MODE=token, with the "
            "cluster's token in ~/.ray/auth_token or in the file that RAY_AUTH_TOKEN_PATH names"
        )
    if "rpc_code: 12" in said:  # a method that the server does not have
        return f"what listens at {at} is another of Ray's servers, not the head's, whose port is 6379 by default"
    if "Failed to merge" in said:
        return "the Ray job that this runs in has py_modules of its own, in its runtime_env: leave them out"
    if "No node info found" in said:
        return (
            "this machine is no node of that cluster, and netsieve joins through one: start it where there is one, or "
            f"ray start --address={at} --num-cpus=0 here, which trains nothing"
        )
    return None


def _resolved(address: str, said: str) -> Address:
    """Host and port of a cluster's head, also of ``auto``. Raises SettingsError."""
    services: Any = ray._private.services  # noqa: SLF001  there is no public way
    try:
        return _read(str(services.canonicalize_bootstrap_address(address)))
    except (AttributeError, OSError, RuntimeError, ValueError) as error:
        raise SettingsError(f"{said}: no such address, or none that Ray knows of ({clean_error(error)})") from None


def _read(address: str) -> Address:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _require_head(host: str, port: int, said: str) -> str:
    """The number of the host, at which a cluster's head answers. Raises Stopped if it may answer later, SettingsError.

    Ray asks name servers itself, and hangs if none answers, also where a file has the name.
    """
    at = _written(host, port)
    try:
        if number := _answering(host, port, JOIN_TIMEOUT_S):
            return number
    except TimeoutError:
        raise Stopped(f"{said}: nobody answers at {at} within {JOIN_TIMEOUT_S:g} s; is a Ray head up there?") from None
    except UnicodeError:
        raise SettingsError(f"{said}: {host} is no host's name") from None
    except OSError as error:
        raise Stopped(f"{said}: no Ray cluster at {at} ({clean_error(error)}); ray start --head starts one") from None
    raise SettingsError(
        f"{said}: what listens at {at} is no Ray head (their port is 6379 by default), or one with TLS (RAY_USE_TLS=1)"
    )


def _answering(host: str, port: int, timeout_s: float) -> str | None:
    """The number at which a gRPC server answers: it begins with a frame of SETTINGS, once it hears HTTP/2.

    Raises OSError. A process that is stopped takes connections all the same, and Ray's own calls then wait for ever.
    With TLS whoever takes connections is taken for a head.
    """
    with socket.create_connection((host, port), timeout=timeout_s) as connection:
        number = str(connection.getpeername()[0])
        if os.environ.get("RAY_USE_TLS", "0").lower() in {"1", "true"}:
            return number
        connection.sendall(HTTP2)
        frame = b""
        while len(frame) < FRAME_BYTES and (part := connection.recv(FRAME_BYTES - len(frame))):
            frame += part  # it may come in pieces, for which MSG_WAITALL does not wait where there is a timeout
    return number if len(frame) == FRAME_BYTES and frame[3] == SETTINGS_FRAME else None


@contextlib.contextmanager
def _waiting_less() -> Iterator[None]:
    """Look for this machine's node for JOIN_TIMEOUT_S, and show a head that refuses three times; Ray: a minute, 20."""
    private: Any = ray._private  # noqa: SLF001  there is no public way
    finder, tries = "get_node_to_connect_for_driver", "NUM_REDIS_GET_RETRIES"
    sooner = functools.partial(getattr(private.services, finder, print), timeout_seconds=JOIN_TIMEOUT_S)
    with _in_place_of(private.services, finder, sooner), _in_place_of(private.ray_constants, tries, 3):
        yield


@contextlib.contextmanager
def _stderr_into(file: int) -> Iterator[None]:
    """Have what Ray's core logs there in a file: some causes it says nowhere else, and much that nobody needs."""
    sys.stderr.flush()
    before = os.dup(2)
    os.dup2(file, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


@functools.cache
def versions() -> dict[str, str]:
    """Of what a result depends on and Ray does not compare: netsieve's code, by its content, and torch."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for file in sorted(package.glob("*.py")):
            digest.update(f"{package.name}/{file.name}\0".encode() + file.read_bytes())
    return {"netsieve": digest.hexdigest()[:12], "torch": version("torch").partition("+")[0]}


# ------------------------------------------------------------------ what a cluster has


def resources() -> dict[str, float]:
    """What the cluster has in all: CPU, GPU, ..."""
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


def free() -> dict[str, float]:
    """What of it nobody uses now."""
    return dict(ray.available_resources())  # type: ignore[no-untyped-call]


def has_cores(available: Mapping[str, float]) -> bool:
    """Whether a worker could run."""
    return available.get("CPU", 0.0) >= 1


def wait_for_cores(timeout_s: float) -> dict[str, float]:
    """What the cluster has in all, once it has a core. Raises Stopped, also when its head answers no more."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not head_answers(head()):  # else Ray's own call would end this process
            raise Stopped("the Ray cluster is lost: its head does not answer; netsieve resume goes on, on another one")
        if has_cores(available := resources()):
            return available
        time.sleep(WAIT_S)
    raise Stopped(f"the Ray cluster has no CPU core after {timeout_s:g} s; netsieve resume goes on when it has")


def nodes() -> dict[str, Mapping[str, Any]]:
    """What Ray knows of every node, by id; only while the head answers, else it blocks."""
    return {node["NodeID"]: node for node in ray.nodes()}  # type: ignore[no-untyped-call]


def lives(node: Mapping[str, Any] | None) -> bool:
    """Whether a node is there: Ray lists a node that was killed as alive for a while, but its raylet is gone.

    A firewall, or a host that takes long, says neither yes nor no.
    """
    if node is None or not node["Alive"]:
        return False
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=PROBE_TIMEOUT_S).close()
    except OSError as error:
        return not isinstance(error, ConnectionRefusedError)
    return True


def head() -> Address:
    """Where the head of the cluster is that was joined."""
    return _read(ray.get_runtime_context().gcs_address)


def head_answers(head: Address, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Whether the cluster's head is there, and works; while it does not, Ray's calls may block."""
    try:
        return _answering(*head, timeout_s) is not None
    except OSError:
        return False
