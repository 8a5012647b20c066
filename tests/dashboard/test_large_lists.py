"""Every list of the pages with ten thousand rows: it shows one page of them, and does not read the others."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.accounts import User, make_key
from tests.support.console import execute_sql, sign_in_operator
from tests.support.large_tables import copy_row
from tests.support.messages import send_message
from tests.support.pages import Browser
from tests.support.query_plans import collect_scans
from tests.support.request_log import record_request
from tests.support.webhooks import WebhookOrganization, allowed  # noqa: F401 - the fixture

ROWS = 10_000
MAX_TABLE_ROWS = 60
"""More rows than a page shows in all its tables."""
_ID = "'id', md5(n::text)::uuid"
_DELIVERED = "'status', 'delivered', 'next_at', NULL, 'finished_at', (t).accepted_at"
_SENT = "'status', 'sent', 'next_at', NULL, 'finished_at', (t).created_at"


def _at(column: str = "created_at") -> str:
    """A time of its own for each row."""
    return f"'{column}', (t).{column} - n * interval '1 millisecond'"


def _create_message(app: Flask, client: FlaskClient, alice: User) -> None:
    send_message(client, make_key(client, alice))


def _create_key(app: Flask, client: FlaskClient, alice: User) -> None:
    make_key(client, alice)


def _create_event(app: Flask, client: FlaskClient, alice: User) -> None:
    acme = WebhookOrganization(client, alice)
    acme.create_endpoint()
    acme.publish_event()
    acme.finish_deliveries("delivered")


def _record_request(app: Flask, client: FlaskClient, alice: User) -> None:
    record_request(alice, 422, error_code="VALIDATION_ERROR", error_message="to: Required.")


def _create_invoice(app: Flask, client: FlaskClient, alice: User) -> None:
    execute_sql(
        app,
        """INSERT INTO invoices (organization_id, kind, state, currency, rule_version)
          SELECT id, 'manual', 'draft', 'USD', 1 FROM organizations""",
    )


def _create_nothing(app: Flask, client: FlaskClient, alice: User) -> None:
    """Signing up made the first row."""


Create = Callable[[Flask, FlaskClient, User], None]
LISTS: dict[str, tuple[str, Create, str]] = {
    "/dashboard/messages": ("messages", _create_message, f"{_ID}, {_at('accepted_at')}, {_DELIVERED}"),
    "/dashboard/messages?status=delivered": ("messages", _create_message, f"{_ID}, {_at('accepted_at')}, {_DELIVERED}"),
    "/dashboard/webhooks/events": ("events", _create_event, f"{_ID}, 'subject_id', md5(n::text)::uuid"),
    "/dashboard/webhooks/deliveries": ("webhook_deliveries", _create_event, f"{_ID}, {_at()}, 'cause', 'replay'"),
    "/dashboard/logs": ("request_log", _record_request, f"{_at('at')}, 'request_id', 'req_' || n"),
    "/dashboard/audit-log": ("audit_events", _create_nothing, "'target_id', n"),
    "/dashboard/billing": ("invoices", _create_invoice, f"{_ID}, {_at()}"),
    "/admin/invoices": ("invoices", _create_invoice, f"{_ID}, {_at()}"),
    "/admin/mail": (
        "mails",
        _create_nothing,
        f"{_ID}, {_at()}, 'status', 'sent', 'next_at', NULL, 'finished_at', (t).created_at",
    ),
    "/admin/users": ("users", _create_nothing, f"{_ID}, {_at()}, 'email', 'u' || n || '@acme.example'"),
    "/admin/audit": ("audit_events", _create_nothing, "'target_id', n, 'organization_id', NULL"),
}
"""By path: the table that is filled, what makes its first row, and what differs in the copies."""
WHOLE_READS = {
    "/dashboard/billing": 2,  # an organization gets an invoice a month; their sums need all of them
    "/admin/invoices": 1,  # sums of each status and currency
    "/admin/users": 2,  # how many are operators, and how many are disabled
}
"""How often a page may read the whole table for figures above its list."""


@pytest.mark.parametrize("path", LISTS)
def test_list_of_ten_thousand_rows_reads_and_shows_one_page(
    app: Flask, client: FlaskClient, alice: User, superuser: Any, path: str
) -> None:
    table, create, changes = LISTS[path]
    browser = sign_in_operator(app, client) if path.startswith("/admin") else Browser(app, alice)
    create(app, client, alice)
    copy_row(superuser, table, changes, ROWS)
    with collect_scans(app, table) as scans:
        response = browser.open(path)
    assert response.status_code == 200
    assert 0 < response.text.count("<tr") <= MAX_TABLE_ROWS
    read = sum(scan.rows_read for scan in scans)
    assert read < (WHOLE_READS.get(path, 0) + 0.5) * ROWS, [scan for scan in scans if scan.rows_read > ROWS / 100]
