"""Meters at the console: the catalogue, the last 30 days, creation in fields and as JSON, change, archive."""

import json
from datetime import timedelta

from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.usage import meters
from saas_api.usage.meter_file import MeterContent
from tests.support.accounts import User
from tests.support.console import IN_PLATFORM_LOG, Console, audit_log, error_summary, open_console
from tests.support.usage import sign_up_organization

NEW, FILE = "/admin/meters/new-meter", "/admin/meters/meter-file"
LOOKUPS = {"code": "lookups", "name": "Lookups", "unit": "lookup", "aggregation": "count", "dimensions": "region, plan"}


def stored(app: Flask, code: str) -> MeterContent:
    with app.app_context(), tenancy.system_session("usage.meters") as session:
        return meters.meter_content(meters.get_meter(session, code))


def days(page: str) -> list[str]:
    """Rows of the table of days, without markup."""
    rows = page.partition("Usage by day, newest first")[2].partition("</table>")[0].split("<tr>")[2:]
    return [" ".join(cell.partition(">")[2] for cell in row.replace("</", "<").split("<")).strip() for row in rows]


def test_meter_is_created_in_fields_changed_and_archived(app: Flask, olga: User) -> None:
    console = open_console(app, olga)
    page = console.run_action(NEW, **LOOKUPS)
    assert "Lookups created." in page
    content = stored(app, "lookups")
    assert (content.dimensions, content.reverse_on_failure) == (("region", "plan"), True)
    assert "lookups" in console.read("/admin/meters")
    assert 'value="region, plan"' in console.read("/admin/meters/lookups/change")
    console.run_action("/admin/meters/lookups/change", **{**LOOKUPS, "name": "Number lookups"})
    assert stored(app, "lookups").name == "Number lookups"
    assert "Number lookups archived." in console.run_action("/admin/meters/lookups/archive")
    assert "Restore meter" in console.read("/admin/meters/lookups")
    assert "Number lookups restored." in console.run_action("/admin/meters/lookups/archive")
    for action in ("meter.published", "meter.changed", "meter.archived", "meter.restored"):
        assert audit_log(app, action) == IN_PLATFORM_LOG, action


def test_meter_is_created_from_json(app: Flask, olga: User) -> None:
    console = open_console(app, olga)
    document = {"code": "seats", "name": "Seats", "unit": "seat", "aggregation": "max", "value_property": "seats"}
    console.run_action(FILE, document=json.dumps(document))
    assert stored(app, "seats").value_property == "seats"


def test_problems_of_a_meter_stand_at_its_fields(app: Flask, olga: User) -> None:
    console = open_console(app, olga)
    refused = console.submit_action(NEW, **{**LOOKUPS, "code": "My meter", "aggregation": "unique"})
    assert refused.status_code == 422
    assert "must be a code" in error_summary(refused)
    assert "is missing: the property" in error_summary(refused)
    broken = console.submit_action(FILE, document='{"code": "x", "colour": "red"}')
    assert broken.status_code == 422
    assert "colour is not known" in error_summary(broken)


def test_meter_with_usage_refuses_another_unit(app: Flask, client: FlaskClient, olga: User) -> None:
    console: Console = open_console(app, olga)
    console.run_action(NEW, **LOOKUPS)
    organization = sign_up_organization(client)
    organization.open_period(clock.now())
    organization.use(1, meter="lookups")
    refused = console.submit_action("/admin/meters/lookups/change", **{**LOOKUPS, "unit": "search"})
    assert refused.status_code == 409
    assert "This meter has usage" in error_summary(refused)
    assert stored(app, "lookups").unit == "lookup"


def test_page_of_a_meter_adds_up_all_organizations_by_day(app: Flask, client: FlaskClient, olga: User) -> None:
    console = open_console(app, olga)
    acme, umbrella = (
        sign_up_organization(client, name, f"{name.lower()}@{name.lower()}.example") for name in ("Acme", "Umbrella")
    )
    for organization, quantities in ((acme, (3, 4)), (umbrella, (1200,))):
        organization.open_period(clock.now())
        for quantity in quantities:
            organization.use(quantity)
    acme.roll_up()
    page = console.read("/admin/meters/sms")
    [today] = days(page)
    assert today.endswith("3  1,207  2")
    listed = console.read("/admin/meters").partition(">sms</a>")[2].partition("</tr>")[0]
    assert 'data-th="Events" class="num">3<' in listed
    clock.freeze_time(clock.now() + timedelta(days=31))
    assert days(console.read("/admin/meters/sms")) != [today]


def test_unknown_meter_is_not_found(app: Flask, olga: User) -> None:
    console = open_console(app, olga)
    assert console.open("/admin/meters/fax").status_code == 404
    assert console.open("/admin/meters/fax/archive").status_code == 404
