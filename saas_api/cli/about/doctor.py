"""`flask doctor`: look at the whole installation and say what to do about what is wrong."""

from collections.abc import Iterator
from dataclasses import asdict

import click
from click.exceptions import Exit
from flask.cli import with_appcontext

from saas_api.cli.about import running, storage
from saas_api.cli.about.findings import FAIL, Finding
from saas_api.cli.acting import answer
from saas_api.cli.boot import PROBLEMS_FOUND, Single
from saas_api.cli.reading import json_option


@click.command("doctor", cls=Single)
@json_option
@with_appcontext
def doctor(*, as_json: bool) -> None:
    """Look at settings, engines, roles, migrations, clocks, zone data, scheduler, workers and disk.

    It changes nothing, and ends with 3 when something does not work; a warning alone ends with 0.

    Example: flask doctor --json
    """
    findings = list(look())
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:<4}  {finding.name}: {finding.what}")
        lines += [f"      {finding.remedy}"] if finding.remedy else []
    is_well = all(finding.state != FAIL for finding in findings)
    answer({"is_well": is_well, "findings": [asdict(finding) for finding in findings]}, lines, as_json=as_json)
    if not is_well:
        raise Exit(PROBLEMS_FOUND)


def look() -> Iterator[Finding]:
    """Every finding; what needs an engine that is away is left out."""
    yield from storage.settings()
    postgres, cache = storage.postgres(), storage.cache()
    yield from (postgres, cache)
    has_postgres, has_redis = postgres.state != FAIL, cache.state != FAIL
    if has_postgres:
        roles, migrations = storage.roles(), storage.migrations()
        yield from (roles, migrations, running.clocks())
        has_postgres = FAIL not in (roles.state, migrations.state)
    if has_postgres:
        yield running.zones()
    if has_postgres and has_redis:
        yield running.scheduler()
    if has_redis:
        yield from running.workers()
    yield from storage.disk()
