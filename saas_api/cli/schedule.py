"""`flask schedule`: what runs when, how it went, and one slot now."""

import os
import socket

import click

from saas_api import schedule
from saas_api.cli.boot import Commands
from saas_api.core import clock, lease

group = Commands("schedule", help="The timetable.")
_ROW = "{:36} {:10} {:26} {:26} {}"


@group.command("list")
def list_entries() -> None:
    """List jobs with their cadence, last and next run, and outcome."""
    runs, now = lease.last_runs(), clock.now()
    click.echo(_ROW.format("job", "cadence", "last run", "next run", "outcome").rstrip())
    for entry in schedule.TIMETABLE:
        run = runs.get(entry.job)
        last = clock.rfc3339(run.scheduled_for) if run else "never"
        outcome = " ".join(filter(None, (run.state, run.error))) if run else "-"
        following = clock.rfc3339(entry.next_slot(now))
        click.echo(_ROW.format(entry.job, f"{entry.every_seconds // 60} min", last, following, outcome))


@group.command("run")
@click.argument("job", type=click.Choice([entry.job for entry in schedule.TIMETABLE]))
def run(job: str) -> None:
    """Run a job now, for this very instant as its slot."""
    host = f"{socket.gethostname()}:{os.getpid()}"
    lease.run_slot(job, clock.now(), host)
    outcome = lease.last_runs()[job]
    click.echo(f"{job}: {outcome.state}" + (f" ({outcome.error})" if outcome.error else ""))
    if outcome.state == "failed":
        raise SystemExit(1)
