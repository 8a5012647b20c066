"""The order of imports: it holds, and planted violations of every kind are caught."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.house import ROOT


def lint_imports(house: Path) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([tool, "--no-cache"], cwd=house, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "saas_api", tmp_path / "saas_api", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("config.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_house_keeps_its_contracts() -> None:
    outcome = lint_imports(ROOT)
    assert outcome.returncode == 0, outcome.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("users/service.py", "from saas_api.billing import service as upward", "Storeys BROKEN"),
        ("auth/models.py", "from saas_api.api_keys import service as sideways", "Storeys BROKEN"),
        ("users/service.py", "def late() -> None:\n    import saas_api.gate", "Storeys BROKEN"),
        ("users/models.py", "from saas_api.users import service as from_below", "Floors BROKEN"),
        ("users/helpers.py", "", "Floors BROKEN"),
        ("stray/__init__.py", "", "Storeys BROKEN"),
        ("cli/rooms/usage.py", "from saas_api.usage import jobs", "Doors: jobs are reached by name BROKEN"),
        ("cli/rooms/usage.py", "from saas_api.dashboard import routes", "Doors: only the factory opens routes BROKEN"),
        ("users/service.py", "import flask", "No HTTP below the door BROKEN"),
        ("usage/rules.py", "import sqlalchemy", "Rules are pure BROKEN"),
        ("users/service.py", "import config", "The package is handed its configuration BROKEN"),
        ("users/service.py", "import requests", "Only providers and core.net speak to the street BROKEN"),
        ("core/clock.py", "from saas_api.core import http", "Core has no cycles BROKEN"),
    ],
)
def test_a_planted_violation_is_caught(copy: Path, file: str, line: str, contract: str) -> None:
    path = copy / "saas_api" / file
    path.parent.mkdir(exist_ok=True)
    before = path.read_text(encoding="utf-8") if path.exists() else '"""Planted."""\n'
    path.write_text(f"{before}\n{line}\n", encoding="utf-8")
    outcome = lint_imports(copy)
    assert outcome.returncode != 0
    assert contract in outcome.stdout
