"""The overview and the operators' log."""

import csv
import io

import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.usage import rollups
from tests.support.accounts import Person, make_key
from tests.support.console_audit import REASON, desk, one, rows, send


def test_an_empty_platform_has_an_overview(app: Flask, olga: Person) -> None:
    text = desk(app, olga).open("/admin").text
    assert "Nothing was invoiced" in text
    assert "No usage in this period" in text


def test_the_overview_counts_what_happened(app: Flask, client: FlaskClient, alice: Person, olga: Person) -> None:
    key, browser = make_key(client, alice), desk(app, olga)
    assert browser.submit(f"{one(alice)}/plan?plan=starter&when=now", f"{one(alice)}/plan", reason=REASON)
    assert [send(client, key)[0] for _ in range(3)] == [202] * 3
    assert browser.submit(f"{one(alice)}/bill-now", name="Acme", reason=REASON).status_code == 303
    with app.app_context():
        rollups.roll_up()
    text = browser.open("/admin").text
    [(total, due)] = rows(app, "SELECT total_minor, due_minor FROM invoices")
    assert total == due > 0
    assert f"{total / 100:.2f} USD" in text
    assert "29.00 USD" in text
    assert '<p class="stat-value">3</p><p class="stat-note">in 30 days</p>' in text


def test_the_log_says_who_did_what_to_whom_and_why(app: Flask, alice: Person, olga: Person) -> None:
    browser = desk(app, olga)
    browser.submit(f"{one(alice)}/suspend", name="Acme", reason=f"=1+1 {REASON}")
    text = browser.open("/admin/audit?action=organization&email=OLGA@platform.example").text
    assert REASON in text
    assert one(alice).rpartition("/")[2] in text
    assert "No entry matches" in browser.open("/admin/audit?action=plan").text
    answer = browser.open("/admin/audit?format=csv&action=organization.suspended")
    [row] = csv.DictReader(io.StringIO(answer.text.removeprefix("\ufeff")))
    assert (row["operator"], row["organization"], row["reason"]) == ("olga@platform.example", "Acme", f"'=1+1 {REASON}")


def test_days_of_the_log_are_a_range(app: Flask, alice: Person, olga: Person) -> None:
    browser = desk(app, olga)
    browser.submit(f"{one(alice)}/suspend", name="Acme", reason=REASON)
    assert REASON in browser.open("/admin/audit?start_date=2020-01-01").text
    assert REASON not in browser.open("/admin/audit?end_date=2020-01-01").text
    assert browser.open("/admin/audit?start_date=2020-02-01&end_date=2020-01-01").status_code == 422
    assert browser.open("/admin/audit?cursor=abc").status_code == 422


def test_no_tenant_reads_the_operators_log(app: Flask, alice: Person, olga: Person) -> None:
    desk(app, olga).submit(f"{one(alice)}/suspend", name="Acme", reason=REASON)
    with app.app_context(), tenancy.tenant_session(ids.parse_id("org", alice.organization_id)) as session:
        assert session.scalar(sa.text("SELECT count(*) FROM audit_events WHERE organization_id IS NULL")) == 0
