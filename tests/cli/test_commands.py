"""Commands that meet an engine that is away, or an argument that names nothing, say so in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOBODY = f"org_{1:032x}"


def flask(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("arguments", [["billing", "close"], ["schedule", "list"], ["usage", "rebuild"]])
def test_an_engine_that_is_away_is_one_line(arguments: list[str]) -> None:
    done = flask(*arguments, DATABASE_URL="postgresql://saas@127.0.0.1:1/saas")
    assert done.returncode == 1
    assert "PostgreSQL cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_organization_that_is_none_is_an_error(config: dict[str, str], app: object) -> None:
    engines = {name: config[name] for name in ("DATABASE_URL", "REDIS_URL")}
    done = flask("billing", "close", "--organization", NOBODY, **engines)
    assert (done.returncode, done.stderr.strip()) == (1, f"There is no organization {NOBODY}.")


def test_an_unreadable_env_file_is_named(tmp_path: Path) -> None:
    from config import ConfigurationError, load

    path = tmp_path / ".env"
    path.write_text("API_PORT=1\nthis is not one\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"\.env line 2"):
        load(env_file=path)
