"""Node, and the client for it: built once from this checkout."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saas_api.core.settings import ROOT

OLDEST_MAJOR_VERSION = 20
NONE_FOUND = f"no Node {OLDEST_MAJOR_VERSION} or later with npm is installed"
PACKAGE = ROOT / "clients" / "typescript"
NPM_OPTIONS = ("--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error")
BUILD_COMMANDS = "npm ci && npm run build"
"""What pages say, and `build_client` does."""
BUILD_SECONDS = 300
PROGRAM_BEGINNING = """
import { ApiError, Client, EventBuffer, verifyWebhook, WebhookVerificationError } from "saas-api-client";
const given = JSON.parse(process.env.GIVEN);
"""


def find_environment() -> dict[str, str] | None:
    """Return an environment whose PATH begins with a Node that is new enough and its npm, or None."""
    for folder in (*os.get_exec_path(), str(Path(sys.executable).parent)):
        node = shutil.which("node", path=folder)
        if node and shutil.which("npm", path=folder) and _major_version(node) >= OLDEST_MAJOR_VERSION:
            return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "NO_UPDATE_NOTIFIER": "1"}
    return None


def build_client(environment: dict[str, str]) -> None:
    """Install what the client is built with and build it, unless that was done since its last change."""
    with (PACKAGE / ".build-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _run_unless_done(["npm", "ci", *NPM_OPTIONS], PACKAGE / "node_modules" / ".digest", _lock_files(), environment)
        _run_unless_done(["npm", "run", "build"], PACKAGE / "dist" / ".digest", _sources(), environment)


def find_binary(environment: dict[str, str]) -> str:
    """Return the path of the node that an environment has."""
    binary = shutil.which("node", path=environment["PATH"])
    assert binary
    return binary


def run(*command: str, folder: Path, environment: dict[str, str], seconds: float = 60) -> str:
    """Run a command to its end and return what it printed; a failure is an AssertionError with its output."""
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def run_program(environment: dict[str, str], program: str, **given: Any) -> Any:
    """Run a program in JavaScript, which has the client, reads `given` and prints JSON."""
    command = ("node", "--input-type=module", "--eval", PROGRAM_BEGINNING + program)
    return json.loads(run(*command, folder=PACKAGE, environment={**environment, "GIVEN": json.dumps(given)}))


def _major_version(node: str) -> int:
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    return int(version.removeprefix("v").partition(".")[0] or 0)


def _lock_files() -> Iterator[Path]:
    yield PACKAGE / "package-lock.json"


def _sources() -> Iterator[Path]:
    yield from (*_lock_files(), PACKAGE / "package.json", *PACKAGE.glob("tsconfig*.json"), ROOT / "docs/openapi.json")
    yield from (path for path in sorted(PACKAGE.glob("src/*.ts")) if path.name != "openapi.ts")


def _run_unless_done(command: list[str], done: Path, inputs: Iterator[Path], environment: dict[str, str]) -> None:
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()
    if done.exists() and done.read_text() == digest:
        return
    run(*command, folder=PACKAGE, environment=environment, seconds=BUILD_SECONDS)
    done.write_text(digest)
