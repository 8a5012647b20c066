"""A service of the platform with its meters, programs that use its token, and what the ledger has of them."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from flask import Flask

from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.usage.models import UsageEvent
from tests.support.accounts import User

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"
METERS = (EXAMPLES / "fastapi" / "meter.json", EXAMPLES / "llm-proxy" / "meter.json")


@contextlib.contextmanager
def running_program(
    arguments: list[str], platform: str, token: str, **environment: str
) -> Iterator["subprocess.Popen[str]"]:
    """Run a Python program that has the client and the service's token; it is ended with the block."""
    path = os.pathsep.join([str(ROOT / "clients" / "python" / "src"), os.environ.get("PYTHONPATH", "")])
    handed = {**os.environ, "PYTHONPATH": path, "SAAS_API_URL": platform, "SAAS_API_TOKEN": token, **environment}
    with subprocess.Popen([sys.executable, *arguments], env=handed, stdout=subprocess.PIPE, text=True) as program:
        try:
            yield program
        finally:
            program.terminate()
            program.wait(20)


def recorded(app: Flask, user: User, meter: str) -> tuple[int, str]:
    """Return the number of a customer's usage events and their quantity."""
    organization_id = ids.parse_id("org", user.organization_id)
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(UsageEvent.quantity), 0)).where(
        UsageEvent.meter_code == meter
    )
    with app.app_context(), tenancy.tenant_session(organization_id) as session:
        count, quantity = session.execute(query).one()
    return count, str(quantity)
