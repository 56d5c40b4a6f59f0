"""netsieve doctor, of what the tests of disks do not cover: who may read a cluster's token."""

from pathlib import Path

import pytest

from search.cli.doctor import Health, _token


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file for a token, which is not there yet; and where Ray can be imported."""
    monkeypatch.undo()
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    return tmp_path / "token"


def test_a_token_that_others_can_read_is_told(token: Path) -> None:
    """Ray itself leaves it readable; the command that mends it is named."""
    assert _token()[0] is Health.OK
    token.write_text("secret", encoding="utf-8")
    token.chmod(0o640)
    health, detail = _token()
    assert health is Health.WARNING
    assert detail.endswith(f"chmod 600 {token}")
    token.chmod(0o600)
    assert _token() == (Health.OK, f"{token} is yours alone")


def test_a_token_in_the_environment_is_told(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the environment of every process, where a file would do."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    health, detail = _token()
    assert health is Health.WARNING
    assert "secret" not in detail
