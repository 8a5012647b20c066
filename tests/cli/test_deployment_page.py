"""docs/deployment.md: each block of commands is run by a test, or says what it needs that no test has."""

import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask import Flask

from config import REQUIRED_IN_PRODUCTION, Settings
from saas_api.cli.dev import host
from tests.architecture.source import ROOT
from tests.support.postgres_versions import running_postgres

PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- (run by|needs) ([^>]+) -->\n)?```(?:sh|bash)\n(.*?)```", re.DOTALL)
NEEDED = {
    "Docker",
    "systemd",
    "a cluster",
    "an account of AWS",
    "an account of DigitalOcean",
    "an account of Google Cloud",
}


EXAMPLE = dict(
    line.split("=", 1)
    for line in (ROOT / "deploy" / "systemd" / "saas-api.env").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
)
"""The settings that the page has a reader copy."""


class Block(NamedTuple):
    """Commands, and what the comment above them says: "run by" a test, or "needs" something; empty without one."""

    kind: str
    name: str
    commands: str


BLOCKS = [Block(*match) for match in BLOCK.findall(PAGE)]


def test_each_block_is_run_by_a_test_or_says_what_it_needs() -> None:
    assert len(BLOCKS) > 5
    for block in BLOCKS:
        if block.kind == "run by":
            assert (ROOT / block.name).exists(), block
        else:
            assert block.kind == "needs", block
            assert block.name in NEEDED, block


def test_files_in_commands_exist() -> None:
    names = set(re.findall(r"(?<!/)\bdeploy/[\w./$-]+", " ".join(block.commands for block in BLOCKS)))
    assert names
    for name in names:
        assert list(ROOT.glob(re.sub(r"\$\w+", "*", name))), name


def test_settings_of_one_machine_are_those_that_production_needs() -> None:
    assert {*REQUIRED_IN_PRODUCTION} <= EXAMPLE.keys() <= {*Settings.model_fields}
    empty = {name for name, value in EXAMPLE.items() if value in ("", "1:")}
    assert empty == {"SECRET_KEY", "JWT_SECRET", "API_KEY_PEPPER", "METRICS_TOKEN"}, "an example with secrets is used"


@pytest.fixture
def environment(config: dict[str, Any]) -> Iterator[dict[str, str]]:
    """A machine with PostgreSQL without logins of the product, Redis, and settings of production."""
    with running_postgres(None) as server:
        pepper, *others = (secrets.token_hex(24) for _ in range(3))
        yield {
            "PATH": os.pathsep.join(
                [str(ROOT / ".venv" / "bin"), str(host.postgres_bin_directory()), os.environ["PATH"]]
            ),
            "HOME": os.environ.get("HOME", "/"),
            "PGHOST": str(server.run),
            "PGUSER": "postgres",
            "FLASK_SKIP_DOTENV": "1",
            **EXAMPLE,
            "DATABASE_URL": f"postgresql://saas_app@/saas?host={server.run}",
            "DATABASE_OWNER_URL": f"postgresql://saas@/saas?host={server.run}",
            "REDIS_URL": config["REDIS_URL"],
            "SECRET_KEY": others[0],
            "JWT_SECRET": others[1],
            "API_KEY_PEPPER": f"1:{pepper}",
            "METRICS_TOKEN": secrets.token_hex(24),
        }


@pytest.mark.long
def test_commands_of_one_machine_make_a_database_that_the_doctor_finds_well(
    app: Flask, environment: dict[str, str]
) -> None:
    """In the order of the page. No process of the product runs, so the doctor ends with 3 for these."""
    own = Path(__file__).relative_to(ROOT).as_posix()
    for block in (block for block in BLOCKS if block.name == own):
        result = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", block.commands],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        is_doctor = block.commands.strip() == "flask doctor"
        assert result.returncode == (3 if is_doctor else 0), result.stdout + result.stderr
        if is_doctor:
            lines = result.stdout.splitlines()
            for name in ("PostgreSQL", "roles", "migrations", "tables", "SECRET_KEY", "peppers"):
                assert any(line.startswith(f"ok    {name}: ") for line in lines), result.stdout
            assert "make run" not in result.stdout
