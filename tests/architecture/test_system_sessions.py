"""mypy refuses a session of one organization where work across organizations takes a `SystemSession`."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.source import ROOT

# `list_due` represents every function that takes a `SystemSession`; its module imports little of the package.
PLANTED = """
from uuid import uuid4
from saas_api.core.db import engine, tenancy
from saas_api.core.jobs import outbox

def plant(claimable: outbox.Claimable) -> None:
    with {opened} as session:
        outbox.list_due(session, claimable)
"""
REFUSAL = 'Argument 1 to "list_due" has incompatible type "Session"; expected "SystemSession"'


def check_types(opened: str) -> subprocess.CompletedProcess[str]:
    """Check a program that passes on the session which an expression opens.

    Imports are followed, since a skipped import has the type Any, which every parameter accepts. The cache of
    `make types` keeps that to about a second; without a cache it takes about ten.
    """
    command = [Path(sys.executable).with_name("mypy"), "-c", PLANTED.format(opened=opened)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("opened", ["tenancy.tenant_session(uuid4())", "engine.session()"])
def test_session_of_an_organization_or_a_request_is_refused(opened: str) -> None:
    outcome = check_types(opened)
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    assert outcome.stdout.count(" error: ") == 1, outcome.stdout
    assert REFUSAL in outcome.stdout


def test_session_of_the_system_is_accepted() -> None:
    outcome = check_types('tenancy.system_session("webhooks.due")')
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
