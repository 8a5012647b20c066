"""The order of imports: it holds, and planted violations of every kind are caught."""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.source import ROOT

DOCSTRING = '"""Planted."""'


def lint_imports(house: Path) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([tool, "--no-cache"], cwd=house, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for every violation, which is taken out again."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "saas_api", root / "saas_api", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("config.py", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    return root


@contextlib.contextmanager
def planted(path: Path, line: str) -> Iterator[None]:
    """A file with a line more for the length of a `with` block; made for it if there is none."""
    before = path.read_text(encoding="utf-8") if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{before or DOCSTRING}\n{line}\n", encoding="utf-8")
    try:
        yield
    finally:
        if before is None:
            path.unlink()
            with contextlib.suppress(OSError):  # a package that was there stays
                path.parent.rmdir()
        else:
            path.write_text(before, encoding="utf-8")


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
    with planted(copy / "saas_api" / file, line):
        outcome = lint_imports(copy)
    assert outcome.returncode != 0
    assert contract in outcome.stdout
