"""mypy refuses a session of one organization where work across organizations takes a `SystemSession`."""

import re
import subprocess
import sys
from pathlib import Path

from tests.architecture.source import ROOT

# `list_due` represents every function that takes a `SystemSession`; its module imports little of the package.
PLANTED = """
from uuid import uuid4
from saas_api.core.db import engine, tenancy
from saas_api.core.jobs import outbox

def plant(claimable: outbox.Claimable) -> None:
    with tenancy.tenant_session(uuid4()) as of_an_organization:
        outbox.list_due(of_an_organization, claimable)
    with engine.session() as of_a_request:
        outbox.list_due(of_a_request, claimable)
    with tenancy.system_session("webhooks.due") as of_the_system:
        outbox.list_due(of_the_system, claimable)
"""
REFUSED_LINES = [8, 10]
REFUSAL = re.compile(r':(\d+): error: Argument 1 to "list_due" has incompatible type "Session"; expected')


def test_session_of_an_organization_or_a_request_is_refused_and_that_of_the_system_accepted() -> None:
    """Imports are followed, since a skipped import has the type Any, which every parameter accepts.

    The cache of `make types` keeps that to about a second; without a cache it takes about ten.
    """
    command = [Path(sys.executable).with_name("mypy"), "-c", PLANTED]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert outcome.stdout.count(" error: ") == len(REFUSED_LINES), outcome.stdout + outcome.stderr
    assert [int(line) for line in REFUSAL.findall(outcome.stdout)] == REFUSED_LINES
