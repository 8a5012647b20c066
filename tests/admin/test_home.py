"""The overview and the audit log of the platform."""

import csv
import io
import re

import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.usage import rollups
from tests.support.accounts import User, make_key
from tests.support.console import REASON, execute_sql, open_console, organization_page, send_message


def test_overview_of_an_empty_platform_opens(app: Flask, olga: User) -> None:
    text = open_console(app, olga).open("/admin").text
    assert "No revenue yet" in text
    assert "No usage in this period" in text


def test_overview_shows_usage_and_revenue(app: Flask, client: FlaskClient, alice: User, olga: User) -> None:
    key, browser = make_key(client, alice), open_console(app, olga)
    assert browser.submit(
        f"{organization_page(alice)}/plan?plan=pro&when=now", f"{organization_page(alice)}/plan", reason=REASON
    )
    assert [send_message(client, key)[0] for _ in range(3)] == [202] * 3
    assert browser.submit(f"{organization_page(alice)}/bill-now", name="Acme", reason=REASON).status_code == 303
    with app.app_context():
        rollups.roll_up()
    text = browser.open("/admin").text
    [(total, due)] = execute_sql(app, "SELECT total_minor, due_minor FROM invoices")
    assert total == due > 0
    assert f"${total / 100:.2f}" in text
    assert "$99.00" in text
    assert '<p class="stat-value">3</p><p class="stat-note">last 30 days</p>' in text


def test_audit_log_shows_operator_action_organization_and_reason(app: Flask, alice: User, olga: User) -> None:
    browser = open_console(app, olga)
    browser.submit(f"{organization_page(alice)}/suspend", name="Acme", reason=f"=1+1 {REASON}")
    text = browser.open("/admin/audit?action=organization&email=OLGA@platform.example").text
    assert REASON in text
    assert organization_page(alice).rpartition("/")[2] in text
    assert re.search(r"<b>.*olga@platform\.example.*</b> suspended the organization", text)
    assert "No entries match" in browser.open("/admin/audit?action=plan").text
    response = browser.open("/admin/audit?format=csv&reason=ticket+4711&action=organization.suspended")
    [row] = csv.DictReader(io.StringIO(response.text.removeprefix("\ufeff")))
    assert (row["operator"], row["organization"], row["reason"]) == ("olga@platform.example", "Acme", f"'=1+1 {REASON}")
    # Small: targets were raw ids here and prefixed ids in the organization's log
    assert (row["target_type"], row["target_id"]) == ("organization", organization_page(alice).rpartition("/")[2])


def test_audit_log_is_filtered_by_a_range_of_days(app: Flask, alice: User, olga: User) -> None:
    browser = open_console(app, olga)
    browser.submit(f"{organization_page(alice)}/suspend", name="Acme", reason=REASON)
    assert REASON in browser.open("/admin/audit?start_date=2020-01-01").text
    assert REASON not in browser.open("/admin/audit?end_date=2020-01-01").text
    assert browser.open("/admin/audit?start_date=2020-02-01&end_date=2020-01-01").status_code == 422
    assert browser.open("/admin/audit?cursor=abc").status_code == 422


def test_organizations_cannot_read_the_platform_audit_log(app: Flask, alice: User, olga: User) -> None:
    open_console(app, olga).submit(f"{organization_page(alice)}/suspend", name="Acme", reason=REASON)
    with app.app_context(), tenancy.tenant_session(ids.parse_id("org", alice.organization_id)) as session:
        assert session.scalar(sa.text("SELECT count(*) FROM audit_events WHERE organization_id IS NULL")) == 0
