"""Import contracts hold, and a planted violation of each is caught."""

import contextlib
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.source import ROOT

DOCSTRING = '"""Planted."""'


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([tool, "--no-cache"], cwd=root, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package for all violations; each is removed after its test."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "saas_api", root / "saas_api", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("config.py", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    return root


@contextlib.contextmanager
def planted(path: Path, line: str) -> Iterator[None]:
    """Append a line to a file inside a `with` block, or create the file for it."""
    before = path.read_text(encoding="utf-8") if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{before or DOCSTRING}\n{line}\n", encoding="utf-8")
    try:
        yield
    finally:
        if before is None:
            path.unlink()
            with contextlib.suppress(OSError):  # the folder of an existing package is not empty
                path.parent.rmdir()
        else:
            path.write_text(before, encoding="utf-8")


PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONTRACTS = {contract["name"] for contract in PYPROJECT["tool"]["importlinter"]["contracts"]}
LAYERS = "Package layers"
CORE_LAYERS = "Core layers"
CYCLES = "Modules of a package have no import cycles"
VIEWS = "HTTP views are imported by the routes only"
JOBS = "Jobs are imported by the factory only"
NO_FLASK = "Domain code does not use Flask"
NO_CORE_WEB = "Domain code does not use core.web"
PURE = "Calculations are pure"
CONFIG = "The package is handed its configuration"
SETTINGS = "Settings import nothing of the product"
NETWORK = "Only providers and core.net use the network"
VIOLATIONS = [
    ("accounts/users.py", "from saas_api.billing import invoices as planted", LAYERS),
    ("payments/refunds.py", "from saas_api.messages import messages as planted", LAYERS),
    ("accounts/users.py", "def late() -> None:\n    import saas_api.gate.hooks", LAYERS),
    ("stray/__init__.py", "", LAYERS),
    ("core/stray.py", "", CORE_LAYERS),
    ("core/clock.py", "from saas_api.core.web import http as planted", CORE_LAYERS),
    ("billing/wallet.py", "from saas_api.billing import invoice_lifecycle as planted", CYCLES),
    ("cli/commands/usage.py", "from saas_api.dashboard import blueprint as planted", VIEWS),
    ("cli/commands/usage.py", "from saas_api.usage import jobs as planted", JOBS),
    ("accounts/users.py", "import flask as planted", NO_FLASK),
    ("accounts/users.py", "from saas_api.core.web import pages as planted", NO_CORE_WEB),
    ("billing/rating/charges.py", "import sqlalchemy as planted", PURE),
    ("usage/ranges.py", "from saas_api.core import clock as planted", PURE),
    ("messages/content.py", "import redis as planted", PURE),
    ("accounts/users.py", "import config as planted", CONFIG),
    ("accounts/users.py", "from saas_api.settings import instance as planted", SETTINGS),
    ("accounts/users.py", "import requests as planted", NETWORK),
]


def test_package_keeps_its_contracts() -> None:
    outcome = lint_imports(ROOT)
    assert outcome.returncode == 0, outcome.stdout


def test_every_contract_has_a_planted_violation() -> None:
    assert {contract for _, _, contract in VIOLATIONS} == CONTRACTS


@pytest.mark.parametrize(("file", "line", "contract"), VIOLATIONS)
def test_planted_violation_is_caught(copy: Path, file: str, line: str, contract: str) -> None:
    with planted(copy / "saas_api" / file, line):
        outcome = lint_imports(copy)
    assert outcome.returncode != 0
    assert f"{contract} BROKEN" in outcome.stdout
