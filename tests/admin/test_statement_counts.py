"""What a page of the console may cost: statements and bytes, with rows in every list."""

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
from tests.support.console import console, run
from tests.support.payments import Customer, Visitor

MOST_STATEMENTS, MOST_BYTES = 12, 60_000


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return Visitor(app, app.response_class)


@contextmanager
def counted() -> Iterator[list[str]]:
    """Statements that are sent meanwhile; those that only bind a transaction are left out."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if not statement.startswith("SELECT set_config"):
            seen.append(statement)

    engines = (db.engine, engine.use_autocommit_pool(db.engine))
    for watched in engines:
        sa.event.listen(watched, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        for watched in engines:
            sa.event.remove(watched, "before_cursor_execute", note)


def test_no_page_costs_more_than_its_budget(app: Flask, client: FlaskClient, customer: Customer) -> None:
    customer.choose(customer.begin(), "pay_wrong")
    jobs.process_inbox()
    run(
        app,
        """INSERT INTO invoices (organization_id, kind, state, currency, rule_version, created_at)
          SELECT :id, 'manual', 'draft', 'USD', 1, now() FROM generate_series(1, 40)""",
        id=customer.id,
    )
    invoice, payment = ids.format_id("inv", customer.invoice_id), ids.format_id("pay", customer.payment().id)
    paths = ("billing", "billing/close", "invoices", f"invoices/{invoice}", f"invoices/{invoice}/credit", "payments")
    more = (f"payments/{payment}", f"payments/{payment}/ask", "payments/events", "deliveries", "jobs", "invariants")
    olga, wrong = console(app, client), []
    for path in (*paths, *more, "mail", "system", f"billing/close/{ids.format_id('org', customer.id)}"):
        with counted() as statements:
            answer = olga.open(f"/admin/{path}")
        assert answer.status_code == 200, path
        if not 0 < len(statements) <= MOST_STATEMENTS or len(answer.data) > MOST_BYTES:
            wrong.append((path, len(statements), len(answer.data)))
    assert wrong == []
