"""Budgets of the pages of the console, with rows in every list: statements (one records the read) and bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import ids
from saas_api.core.db import engine
from saas_api.core.db.engine import db
from saas_api.payments import jobs
from tests.support.console import execute_sql, sign_in_operator
from tests.support.payments import IsolatedClient, PayingOrganization
from tests.support.services import create_service

MAX_STATEMENTS, MAX_BYTES = 13, 60_000


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return IsolatedClient(app, app.response_class)


@contextmanager
def counted() -> Iterator[list[str]]:
    """Collect the statements that are sent, without those that only bind a transaction."""
    statements: list[str] = []

    def record(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if not statement.startswith("SELECT set_config"):
            statements.append(statement)

    engines = (db.engine, engine.use_autocommit_pool(db.engine))
    for observed in engines:
        sa.event.listen(observed, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        for observed in engines:
            sa.event.remove(observed, "before_cursor_execute", record)


def test_pages_stay_within_their_statement_and_size_budgets(
    app: Flask, client: FlaskClient, acme: PayingOrganization
) -> None:
    acme.choose(acme.begin(), "pay_wrong")
    create_service(app)
    jobs.process_inbox()
    execute_sql(
        app,
        """INSERT INTO invoices (organization_id, kind, state, currency, rule_version, created_at)
          SELECT :id, 'manual', 'draft', 'USD', 1, now() FROM generate_series(1, 40)""",
        id=acme.id,
    )
    invoice, payment = ids.format_id("inv", acme.invoice_id), ids.format_id("pay", acme.payment().id)
    paths = ("billing", "billing/close", "invoices", f"invoices/{invoice}", f"invoices/{invoice}/credit", "payments")
    more = (f"payments/{payment}", f"payments/{payment}/ask", "payments/events", "deliveries", "jobs", "invariants")
    catalogue = (
        "revenue",
        "users",
        "plans",
        "search?q=acme",
        "meters",
        "meters/sms",
        "meters/sms/change",
        "services",
        "services/lookups",
    )
    olga, wrong = sign_in_operator(app, client), []
    for path in (*paths, *more, *catalogue, "mail", "system", f"billing/close/{ids.format_id('org', acme.id)}"):
        with counted() as statements:
            response = olga.open(f"/admin/{path}")
        assert response.status_code == 200, path
        if not 0 < len(statements) <= MAX_STATEMENTS or len(response.data) > MAX_BYTES:
            wrong.append((path, len(statements), len(response.data)))
    assert wrong == []
