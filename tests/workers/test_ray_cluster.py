"""Joining a Ray cluster: what is wrong with an address is said in one line, and soon; what is brought along."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from search.errors import SettingsError, Stopped
from workers import ray_cluster

JOINED = "--ray-address 127.0.0.1:6379"


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that answers, at the address that is asked for."""
    monkeypatch.setattr(ray_cluster, "_resolved", lambda *_: ("127.0.0.1", 6379))
    monkeypatch.setattr(ray_cluster, "_answering", lambda *_: "127.0.0.1")


@pytest.fixture
def listener() -> Iterator[Callable[[Callable[[socket.socket], None]], int]]:
    """Starts servers that do one thing with whoever comes; their ports."""
    servers: list[socket.socket] = []

    def serve(server: socket.socket, answer: Callable[[socket.socket], None]) -> None:
        with suppress(OSError):  # it is closed in the end
            while True:
                connection, _ = server.accept()
                answer(connection)

    def listen(answer: Callable[[socket.socket], None]) -> int:
        servers.append(socket.create_server(("127.0.0.1", 0)))
        threading.Thread(target=serve, args=(servers[-1], answer), daemon=True).start()
        return int(servers[-1].getsockname()[1])

    yield listen
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


# ------------------------------------------------------------------ addresses


def test_a_name_that_is_none_is_refused() -> None:
    """Whatever Python makes of it."""
    with pytest.raises(SettingsError, match=r"--ray-address a\.\.b:6379: a\.\.b is no host's name"):
        ray_cluster.connect("a..b:6379", None)


def test_a_head_whose_answer_comes_in_pieces_is_a_head(
    listener: Callable[[Callable[[socket.socket], None]], int],
) -> None:
    """A network may cut it anywhere."""

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.recv(1000)
            for part in (bytes((0, 0, 0, 4, 0)), bytes(4)):
                connection.sendall(part)
                time.sleep(0.05)

    assert ray_cluster.head_answers(("127.0.0.1", listener(answer)), 5.0)


def test_where_nothing_listens_the_run_stops_at_once() -> None:
    """Ray itself would try for minutes; a head may be there later, so the exit code says that it is worth a try."""
    with pytest.raises(Stopped, match=r"address localhost:1: no Ray cluster at \S+:1 \(.*refused.*ray start --head"):
        ray_cluster.connect("localhost:1", None)


def test_a_head_that_does_not_answer_stops_the_run(
    listener: Callable[[Callable[[socket.socket], None]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process that is frozen, which takes connections all the same."""
    held: list[socket.socket] = []
    port = listener(held.append)
    monkeypatch.setattr(ray_cluster, "JOIN_TIMEOUT_S", 0.2)
    monkeypatch.setattr(ray_cluster, "_resolved", lambda *_: ("127.0.0.1", port))
    with pytest.raises(Stopped, match=rf"nobody answers at 127\.0\.0\.1:{port} within 0\.2 s"):
        ray_cluster.connect(f"127.0.0.1:{port}", None)
    assert not ray_cluster.head_answers(("127.0.0.1", port))
    for connection in held:
        connection.close()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"E\x00\x00\x00\x08nope"])
def test_another_server_is_no_head(
    listener: Callable[[Callable[[socket.socket], None]], int], monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """A web server's port, Postgres' port, or one that hangs up."""

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.recv(64)
            connection.sendall(said)

    port = listener(answer)
    monkeypatch.setattr(ray_cluster, "_resolved", lambda *_: ("127.0.0.1", port))
    with pytest.raises(SettingsError, match=rf"what listens at 127\.0\.0\.1:{port} is no Ray head"):
        ray_cluster.connect(f"127.0.0.1:{port}", None)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("RAY_AUTH_TOKEN_PATH is set\nbut"),
            r"asks for its token, .*has none or another one: .*AUTH_TOKEN_PATH",
        ),
        (
            RuntimeError("Version mismatch:\nRay 2.55.0"),
            r"cannot be joined \(.*Version mismatch: Ray 2\.55\.0",
        ),
        (
            RuntimeError("No node info found matching"),
            r"no node of .* ray start --address=127\.0\.0\.1:6379 --num-cpus=0 here",
        ),
        (ValueError("Failed to merge the Job's runtime env"), r"has py_modules of its own"),
        (RuntimeError("rpc_code: 12"), r"what listens at 127\.0\.0\.1:6379 is another of Ray's servers"),
        (ConnectionError("gone"), r"that cluster cannot be joined \(ConnectionError: gone\)$"),
        (TimeoutError("late"), r"that cluster cannot be joined"),
        (ValueError("what"), r"that cluster cannot be joined"),
    ],
)
def test_what_ray_says_when_it_cannot_join(
    monkeypatch: pytest.MonkeyPatch, head: None, error: Exception, message: str
) -> None:
    """One line, which names the address and, where it is known, what to do."""

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray_cluster.ray, "init", fail)
    with pytest.raises(SettingsError, match=f"^{JOINED}: .*{message}") as refusal:
        ray_cluster.connect("127.0.0.1:6379", None)
    assert "\n" not in str(refusal.value)


def test_what_ray_only_logs_is_heard(
    monkeypatch: pytest.MonkeyPatch, head: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its core tells of a wrong token on stderr, and of much else: neither is shown."""

    def fail(**_: object) -> None:
        os.write(2, b"gcs_client.cc:210: RPC error: InvalidAuthToken: Authentication token is missing or incorrect\n")
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr(ray_cluster.ray, "init", fail)
    with pytest.raises(SettingsError, match=f"^{JOINED}: the cluster asks for its token"):
        ray_cluster.connect("127.0.0.1:6379", None)
    os.write(2, b"afterwards")
    assert capfd.readouterr().err == "afterwards"


def test_another_ray_waits_as_long_as_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it has no function of that name nothing is put in its place."""
    services = ray_cluster.ray._private.services
    before = services.get_node_to_connect_for_driver
    with ray_cluster._waiting_less():
        assert services.get_node_to_connect_for_driver is not before
    assert services.get_node_to_connect_for_driver is before
    monkeypatch.delattr(services, "get_node_to_connect_for_driver")
    with ray_cluster._waiting_less():
        assert not hasattr(services, "get_node_to_connect_for_driver")


# ------------------------------------------------------------------ waiting for cores


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that was joined, and whose head answers."""
    monkeypatch.setattr(ray_cluster, "WAIT_S", 0.01)
    monkeypatch.setattr(ray_cluster, "head", lambda: ("127.0.0.1", 6379))
    monkeypatch.setattr(ray_cluster, "head_answers", lambda _: True)


def test_cores_are_waited_for(monkeypatch: pytest.MonkeyPatch, joined: None) -> None:
    """Less than one is none."""
    answers = iter([{}, {"CPU": 0.5}, {"CPU": 2.0, "GPU": 1.0}])
    monkeypatch.setattr(ray_cluster, "resources", lambda: next(answers))
    assert ray_cluster.wait_for_cores(60) == {"CPU": 2.0, "GPU": 1.0}


def test_waiting_for_cores_has_an_end(monkeypatch: pytest.MonkeyPatch, joined: None) -> None:
    """The exit code says that it is worth another try."""
    monkeypatch.setattr(ray_cluster, "resources", dict)
    with pytest.raises(Stopped, match=r"has no CPU core after 0\.1 s; netsieve resume"):
        ray_cluster.wait_for_cores(0.1)


def test_a_head_that_goes_meanwhile_is_not_asked(monkeypatch: pytest.MonkeyPatch, joined: None) -> None:
    """Ray's call ends the process that makes it."""
    monkeypatch.setattr(ray_cluster, "head_answers", lambda _: False)
    monkeypatch.setattr(ray_cluster, "resources", lambda: pytest.fail("asked"))
    with pytest.raises(Stopped, match="the Ray cluster is lost"):
        ray_cluster.wait_for_cores(60)


# ------------------------------------------------------------------ what is brought along


def test_the_two_packages_are_brought_and_nothing_else(monkeypatch: pytest.MonkeyPatch, head: None) -> None:
    """Not the current folder, which may hold data and secrets, and in which workers would look for modules first."""
    asked: dict[str, object] = {}
    before = Path.cwd()

    def init(**options: Any) -> None:
        packages = map(Path, options["runtime_env"]["py_modules"])
        files = [f"{package.name}/{path.relative_to(package)}" for package in packages for path in package.rglob("*")]
        asked.update(options, files=sorted(files), folder=Path.cwd())

    monkeypatch.setattr(ray_cluster.ray, "init", init)
    ray_cluster.connect("127.0.0.1:6379", None)
    code = asked["runtime_env"]
    assert isinstance(code, dict)
    assert code.keys() == {"py_modules"}
    assert [Path(package).name for package in code["py_modules"]] == ["search", "workers"]
    assert asked["files"] == sorted(
        f"{package.name}/{file.name}" for package in ray_cluster.PACKAGES for file in package.glob("*.py")
    )
    assert asked["folder"] not in {before, Path.cwd()}
    assert Path.cwd() == before


def test_the_code_is_known_by_its_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of any file of the packages, name or content; what is brought leaves out the command line, and so does it."""
    package = tmp_path / "search"
    (package / "cli").mkdir(parents=True)
    seen = set[str]()

    def digest() -> str:
        monkeypatch.setattr(ray_cluster, "PACKAGES", (package,))
        return ray_cluster.versions.__wrapped__()["netsieve"]

    for name, content in [("a.py", "1"), ("a.py", "2"), ("b.py", "2")]:
        (package / name).write_text(content, encoding="utf-8")
        seen.add(digest())
    before = digest()
    (package / "cli" / "c.py").write_text("3", encoding="utf-8")
    assert len(seen) == 3
    assert digest() == before
