"""CELLS: organizations in two PostgreSQL clusters, found by keys, users and services, and moved with nothing lost."""

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from sqlalchemy.exc import DataError

from saas_api.accounts import cell_copies, organizations
from saas_api.accounts.audit import Actor
from saas_api.accounts.organizations import ExternalIdTaken
from saas_api.admin import home, revenue
from saas_api.billing import catalogue_copies
from saas_api.cli import backups
from saas_api.core import clock, ids
from saas_api.core.db import cells, row_copies, tenancy
from saas_api.core.jobs import schedule
from tests.support.accounts import PASSWORD, User, add_member, create_key, make_key, sign_in, sign_up
from tests.support.billing import day
from tests.support.cells import Spread, call, execute_as_superuser, organization_id, query
from tests.support.console import sign_in_operator
from tests.support.http_receiver import wait_until
from tests.support.messages import provider_calls, send_message
from tests.support.metering import verify
from tests.support.pages import Browser
from tests.support.payments import PayingOrganization, create_paying_organization
from tests.support.portal import create_link, open_portal
from tests.support.services import create_service, service_headers
from tests.support.team import member_roles
from tests.support.usage_events import publish_meter

STAYS = {"audit_events", "memberships", "organizations"}
"""Tables of which home keeps rows of an organization that has left."""


def _token_of(spread: Spread, email: str) -> str:
    [(text,)] = query(spread, "eu", "SELECT text_body FROM mails WHERE recipient = :email ORDER BY id", email=email)
    found = re.search(r"accept-invitation\?token=([\w-]+)", text)
    assert found, text
    return found[1]


def test_an_organization_is_served_where_it_was_moved_by_key_and_by_its_users(
    spread: Spread, client: FlaskClient, alice: User, bob: User, carol: User
) -> None:
    key, other = make_key(client, alice), make_key(client, carol)
    before = send_message(client, key)
    spread.move(alice, "eu")
    after = send_message(client, key)
    send_message(client, other)
    spread.work()
    assert [spread.cell_of(user) for user in (alice, carol)] == ["eu", "home"]
    assert spread.count_rows("eu", alice)["messages"] == 2
    assert spread.count_rows("home", alice).keys() <= STAYS
    assert {client.get(f"/api/v1/messages/{one}", headers=key).json["data"]["status"] for one in (before, after)} == {
        "delivered"
    }
    assert len(provider_calls(spread.app)) == 3
    assert alice.call("GET", "/keys")[0] == bob.call("GET", "/team/members")[0] == 200
    assert sign_in(client, bob.email).organization_id == alice.organization_id
    assert query(spread, None, "SELECT count(*) FROM messages")[0][0] == 1, "work at home does not see it"


def test_a_cell_that_is_down_touches_its_organizations_alone(
    spread: Spread, client: FlaskClient, alice: User, carol: User
) -> None:
    add_member(alice, carol.email, "member")
    key, other = make_key(client, alice), make_key(client, carol)
    spread.move(alice, "eu")
    with spread.without_eu():
        assert call(client, key) == (503, "CELL_UNAVAILABLE")
        assert alice.call("GET", "/keys") == (503, "CELL_UNAVAILABLE")
        sent = send_message(client, other)
        assert carol.call("GET", "/keys")[0] == 200
        assert sign_in(client, carol.email, organization_id=carol.organization_id).call("GET", "/keys")[0] == 200
        spread.work()
        assert client.get(f"/api/v1/messages/{sent}", headers=other).json["data"]["status"] == "delivered"
        assert client.get("/readyz").status_code == 200
        with spread.app.app_context():
            tenancy.verify_isolation()
        listed = spread.app.test_cli_runner().invoke(args=["cells", "list"]).output
        assert [line.split(maxsplit=1)[1] for line in listed.splitlines()] == ["1", "does not respond"]
        with pytest.raises(Exception, match="connection"):
            spread.move(carol, "eu")
        send_message(client, other)  # the failed command has refused nothing
        findings = spread.app.test_cli_runner().invoke(args=["doctor"]).output
        assert "fail  PostgreSQL of cell eu:" in findings
        assert "ok    moves: no organization is being moved" in findings
    wait_until(lambda: call(client, key) == (200, None))
    send_message(client, key)


def test_an_unknown_key_is_refused_unless_it_may_be_one_of_a_cell_that_is_down(
    spread: Spread, client: FlaskClient, alice: User
) -> None:
    key_id, unknown = create_key(client, alice)
    assert alice.call("DELETE", f"/keys/{key_id}")[0] == 200
    assert call(client, unknown) == (401, "INVALID_API_KEY")
    with spread.without_eu():
        assert call(client, make_key(client, alice)) == (200, None)
        assert call(client, unknown) == (503, "CELL_UNAVAILABLE")


def test_a_key_that_nobody_has_is_looked_up_once_in_each_cell(spread: Spread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "CACHE_SECONDS", 600.0)
    monkeypatch.setattr(cells, "_none_moving_at", [-math.inf])
    searched: list[str | None] = []
    with spread.app.app_context():
        for times in (2, 1, 1):  # the first learns that nothing is being moved
            assert cells.search(lambda: searched.append(cells.current())) is None
            assert searched == [None, "eu"] * times
            searched.clear()


def test_a_user_of_two_cells_signs_in_switches_and_leaves(
    spread: Spread, client: FlaskClient, alice: User, carol: User
) -> None:
    member = add_member(alice, carol.email, "admin")
    spread.move(alice, "eu")
    organizations = {item["id"] for item in carol.call("GET", "/auth/me")[1]["organizations"]}
    assert organizations == {alice.organization_id, carol.organization_id}
    assert member.call("POST", "/keys", name="of carol")[0] == 201
    status, switched = carol.call("POST", "/auth/switch-organization", organization_id=alice.organization_id)
    assert (status, switched["role"]) == (200, "admin")
    assert member_roles(alice) == {alice.email: "owner", carol.email: "admin"}
    assert alice.call("PUT", f"/team/members/{carol.user_id}/role", role="viewer")[0] == 200
    assert member.call("POST", "/keys", name="another")[0] == 403, "the cell is asked about the role"
    assert member.call("POST", "/team/leave")[0] == 200
    assert member.call("GET", "/keys")[0] == 401
    assert carol.call("GET", "/auth/me")[1]["organizations"][0]["id"] == carol.organization_id
    assert member_roles(alice) == {alice.email: "owner"}


def test_keys_of_a_disabled_user_are_revoked_in_every_cell(spread: Spread, client: FlaskClient, alice: User) -> None:
    console, key = sign_in_operator(spread.app, client), make_key(client, alice)
    spread.move(alice, "eu")
    assert "1 API key revoked" in console.run_action(f"/admin/users/{alice.user_id}/disable")
    assert call(client, key)[0] == 401


@pytest.mark.parametrize("has_account", [False, True])
def test_an_invitation_of_an_organization_in_a_cell_is_accepted(
    has_account: bool, spread: Spread, client: FlaskClient, alice: User
) -> None:
    email = sign_up(client, "dave@dave.example", "Dave").email if has_account else "dave@dave.example"
    spread.move(alice, "eu")
    assert alice.call("POST", "/team/invite", email=email, role="member")[0] == 201
    token = _token_of(spread, email)
    body = {"token": token, "password": PASSWORD, "full_name": "Dave"}
    accepted = client.post("/api/v1/team/accept-invitation", json=body)
    assert accepted.status_code == 200, accepted.json
    assert member_roles(alice)[email] == "member"
    signed_in = sign_in(client, email, organization_id=alice.organization_id)
    assert signed_in.call("GET", "/keys")[0] == 200
    assert client.post("/api/v1/team/accept-invitation", json=body).status_code == 400


def test_services_report_usage_of_organizations_in_both_cells(
    spread: Spread, client: FlaskClient, alice: User, carol: User
) -> None:
    headers = service_headers(token := create_service(spread.app))
    publish_meter(spread.app)
    key_id, key = create_key(client, alice)
    spread.move(alice, "eu")
    assert verify(client, token, key["X-API-Key"])["valid"]
    path = f"/api/v1/organizations/{alice.organization_id}/external-id"
    assert client.put(path, json={"external_id": "customer-1"}, headers=headers).status_code == 200
    publish_meter(spread.app, code="searches")  # after the move
    names = {
        alice.organization_id: "searches",
        carol.organization_id: "lookups",
        key_id: "lookups",
        "customer-1": "lookups",
    }
    events = [
        {"id": str(number), "subject": subject, "type": code} for number, (subject, code) in enumerate(names.items())
    ]
    for accepted, duplicates in ((4, 0), (0, 4)):
        response = client.post("/api/v1/events", json={"events": events}, headers=headers)
        assert response.status_code == 200, response.json
        assert response.json is not None
        data = response.json["data"]
        assert (data["accepted"], data["duplicates"], data["errors"]) == (accepted, duplicates, [])
    assert query(spread, "eu", "SELECT count(*) FROM usage_events")[0][0] == 3
    assert query(spread, None, "SELECT count(*) FROM usage_events")[0][0] == 1
    assert client.post("/api/v1/events/0/reverse", json={}, headers=headers).status_code == 200
    hold = {"organization_id": alice.organization_id, "meter": "searches", "quantity": 2}
    held = client.post("/api/v1/holds", json=hold, headers=headers)
    assert held.status_code == 201, held.json
    assert held.json is not None
    settle = f"/api/v1/holds/{held.json['data']['hold_id']}/settle"
    assert client.post(settle, json={"quantity": 1}, headers=headers).status_code == 200
    taken = f"/api/v1/organizations/{carol.organization_id}/external-id"
    assert client.put(taken, json={"external_id": "customer-1"}, headers=headers).status_code == 409
    with spread.without_eu():
        response = client.post("/api/v1/events", json={"events": events}, headers=headers)
        assert response.status_code == 503


def test_a_portal_follows_its_organization_to_another_cell(spread: Spread, client: FlaskClient, alice: User) -> None:
    maker, path = service_headers(create_service(spread.app)), "/portal/dashboard/api-keys"
    browser, waiting = open_portal(spread.app, maker, alice), create_link(client, maker, alice.organization_id)
    spread.move(alice, "eu")
    assert browser.open(path).status_code == 200
    assert Browser(spread.app).open(waiting).status_code == 303
    assert open_portal(spread.app, maker, alice).open(path).status_code == 200
    assert query(spread, "eu", "SELECT count(*) FROM portal_sessions WHERE opened_at IS NOT NULL")[0][0] == 3
    with spread.without_eu():
        assert browser.open(path).status_code == 503


def test_an_external_id_that_two_cells_take_at_once_is_that_of_one_organization(
    spread: Spread, alice: User, carol: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    spread.move(alice, "eu")
    publish, racers = organizations.bump_generation, [carol]

    def name(user: User) -> None:
        with spread.app.app_context(), cells.use(cells.cell_of(organization_id(user))):
            organizations.set_external_id(organization_id(user), "customer-1", Actor("system", "tests"))

    def race_before_commit(*arguments: Any) -> None:
        publish(*arguments)
        if racers:
            with ThreadPoolExecutor(1) as pool, pytest.raises(ExternalIdTaken):
                pool.submit(name, racers.pop()).result()

    monkeypatch.setattr(organizations, "bump_generation", race_before_commit)
    name(alice)
    named = "SELECT count(*) FROM organizations WHERE external_id = 'customer-1'"
    assert [query(spread, cell, named)[0][0] for cell in (None, "eu")] == [0, 1]


def test_an_external_id_whose_change_failed_stays_reserved_until_the_next_change(
    spread: Spread, alice: User, carol: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    spread.move(alice, "eu")

    def name(user: User, external_id: str | None) -> None:
        with spread.app.app_context(), cells.use(cells.cell_of(organization_id(user))):
            organizations.set_external_id(organization_id(user), external_id, Actor("system", "tests"))

    name(alice, "before")
    with monkeypatch.context() as failing:
        failing.setattr(organizations, "bump_generation", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            name(alice, "after")
    for taken in ("before", "after"):
        with pytest.raises(ExternalIdTaken):
            name(carol, taken)
    name(alice, "before")
    name(carol, "after")
    name(alice, None)
    name(carol, "before")  # home's copy of alice's organization does not hold it either


@contextlib.contextmanager
def renamed_meter(spread: Spread) -> Iterator[None]:
    """Another name of a meter, which no test deletes."""
    rename = "UPDATE meters SET name = '{}' WHERE code = 'sms'".format
    execute_as_superuser(spread.home, rename("Searches"))
    try:
        yield
    finally:
        execute_as_superuser(spread.home, rename("SMS"))


def watch_copies(spread: Spread, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Return a function that refreshes the copies of a cell and returns the table of each row that it carried."""
    carried: list[str] = []
    write = row_copies.write_rows

    def carry(session: Any, table: str, rows: str, **options: Any) -> None:
        carried.extend([table] * len(json.loads(rows)))
        write(session, table, rows, **options)

    def refresh() -> list[str]:
        carried.clear()
        with spread.app.app_context():
            cell_copies.refresh_copies("eu")
            catalogue_copies.copy_catalogue("eu")
        return sorted(carried)

    monkeypatch.setattr(row_copies, "write_rows", carry)
    return refresh


def exchange_addresses(spread: Spread, bob: User) -> None:
    """Alice and bob exchange their addresses at home, and bob is copied first, whose new one is still alice's there."""
    turn = "UPDATE users SET email = '{}@acme.example' WHERE email LIKE '{}@%'".format
    execute_as_superuser(spread.home, turn("free", "alice"), turn("alice", "bob"), turn("bob", "free"))
    with spread.app.app_context():
        cell_copies.copy_users("eu", [ids.parse_id("usr", bob.user_id)])


def test_copies_follow_and_carry_only_what_changed(
    spread: Spread, client: FlaskClient, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in_operator(spread.app, client)
    publish_meter(spread.app)
    spread.move(alice, "eu")
    refresh = watch_copies(spread, monkeypatch)
    refresh()
    assert refresh() == []
    execute_as_superuser(spread.home, "UPDATE users SET full_name = 'Bob the builder' WHERE email LIKE 'bob@%'")
    turns = "UPDATE memberships SET role = '{}' WHERE user_id = (SELECT id FROM users WHERE email LIKE '{}@%')".format
    execute_as_superuser(spread.eu, turns("viewer", "alice"), turns("owner", "bob"))
    assert refresh() == ["memberships", "memberships", "users"]
    assert query(spread, "eu", "SELECT count(*) FROM users WHERE full_name = 'Bob the builder'")[0][0] == 1
    assert query(spread, "eu", "SELECT DISTINCT password_hash FROM users") == [("!",)]
    execute_as_superuser(spread.eu, "DELETE FROM memberships WHERE role = 'viewer'")
    execute_as_superuser(spread.home, "DELETE FROM operators")
    with renamed_meter(spread):
        assert refresh() == ["meters"]
    assert query(spread, "eu", "SELECT name FROM meters WHERE name = 'Searches' LIMIT 1")
    assert query(spread, "eu", "SELECT count(*) FROM operators")[0][0] == 0
    with spread.app.app_context(), tenancy.system_session("accounts.home_rows") as session:
        assert session.scalar(sa.text("SELECT count(*) FROM memberships WHERE role = 'viewer'")) == 0
    exchange_addresses(spread, bob)
    refresh()
    people = "SELECT id, email FROM users WHERE email LIKE '%@acme.example' ORDER BY id"
    assert query(spread, "eu", people) == query(spread, None, people)
    assert len(query(spread, "eu", people)) == 2


def test_a_sweep_that_fails_is_named_and_stops_no_other(
    spread: Spread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong statement in one cell is no cell that does not respond."""
    called: list[str] = []

    def fail() -> None:
        with tenancy.system_session("demo.seed") as session:
            session.execute(sa.text("SELECT 1 / 0"))

    monkeypatch.setattr(schedule, "_sweeps", [fail, lambda: called.append(cells.display_name(cells.current()))])
    with spread.app.app_context():
        schedule.run_sweeps()
        assert called == ["home", "eu"]
        with pytest.raises(DataError, match="division by zero"):
            cells.run_in_each(fail)
        assert "cell_unavailable" not in caplog.text
        with spread.without_eu():
            schedule.run_sweeps()
    assert called == ["home", "eu", "home"]


def test_jobs_of_a_cell_invoice_its_organizations_under_numbers_of_its_own(
    spread: Spread, acme: PayingOrganization
) -> None:
    spread.move(acme.owner, "eu")
    clock.freeze_time(day(1, 2, month=6))
    schedule.run_due_jobs()
    numbers = {invoice.number for invoice in acme.invoices()}
    assert numbers == {"INV-000001", "INV-EU-000001"}


def test_the_console_lists_all_and_shows_an_organization_where_it_is(
    spread: Spread, client: FlaskClient, alice: User
) -> None:
    console = sign_in_operator(spread.app, client)
    send_message(client, make_key(client, alice))
    spread.move(alice, "eu")
    listed = console.read("/admin/organizations")
    assert "Acme" in listed
    assert "cell only" not in listed
    for path in ("/invoices", "/deliveries", "/jobs"):
        assert "Shows organizations in the home cell only." in console.read(f"/admin{path}")
    page = console.read(f"/admin/organizations/{alice.organization_id}")
    assert "alice@acme.example" in page
    assert "cell only" not in page
    console.run_action(f"/admin/organizations/{alice.organization_id}/suspend", name="Acme")
    assert query(spread, "eu", "SELECT status FROM organizations WHERE name = 'Acme'")[0][0] == "suspended"


def test_the_console_adds_up_and_searches_all_cells(
    spread: Spread, client: FlaskClient, acme: PayingOrganization, carol: User
) -> None:
    create_paying_organization(acme.client, "Bob")
    acme.begin()
    console = sign_in_operator(spread.app, client)
    send_message(acme.client, key := make_key(acme.client, carol))
    spread.roll_up()
    before = read_totals(spread)
    spread.move(acme.owner, "eu")
    spread.move(carol, "eu")
    spread.roll_up()
    assert read_totals(spread) == before
    figures, revenues = before
    assert (figures["organizations"], figures["active"], figures["waiting_messages"]) == (4, 1, 1)
    assert [row["net_minor"] for row in revenues["net-revenue"] if row["net_minor"]] == [2 * 9900]
    assert [row["name"] for row in revenues["top-customers"]] == ["Acme", "Bob"]
    invoice, payment = acme.invoice(), acme.payment()
    pages = {
        acme.owner.organization_id: f"/admin/organizations/{acme.owner.organization_id}",
        ids.format_id("inv", invoice.id): f"/admin/invoices/{ids.format_id('inv', invoice.id)}",
        ids.format_id("pay", payment.id): f"/admin/payments/{ids.format_id('pay', payment.id)}",
    }
    texts = ("Acme", invoice.number, payment.provider_reference, key["X-API-Key"][:16])
    for text, path in zip(texts, (*pages.values(), f"/admin/organizations/{carol.organization_id}"), strict=True):
        assert console.read(f"/admin/search?q={text}").count(f'href="{path}"') == 1, text
    for text, path in pages.items():
        assert console.open(f"/admin/search?q={text}").location == path
        assert "Acme" in console.read(path)
    console.run_action(f"{pages[ids.format_id('inv', invoice.id)]}/void")
    assert query(spread, "eu", "SELECT state FROM invoices") == [("void",)]
    with spread.without_eu():
        for path in ("", "/revenue", "/search?q=Bob"):
            assert "Organizations in the eu cell are missing" in console.read(f"/admin{path}")
        assert console.open("/admin/revenue/mrr.csv?reason=ticket+4711").status_code == 503
        assert console.open(f"/admin/invoices/{ids.format_id('inv', invoice.id)}").status_code == 503


def read_totals(spread: Spread) -> tuple[Any, dict[str, list[dict[str, Any]]]]:
    """Figures of the overview and rows of all figures of revenue, in the middle of May."""
    with spread.app.app_context():
        overview = home.get_overview(clock.now())
        figures, missing_cells = revenue.read_figures(revenue.FIGURES, day(15, month=5))
    assert overview.missing_cells == missing_cells == []
    rows = {
        name: [dict(getattr(row, "_mapping", None) or vars(row)) for row in found] for name, found in figures.items()
    }
    return vars(overview.figures), rows


def test_commands_work_in_the_cell_of_their_organization(spread: Spread, client: FlaskClient, alice: User) -> None:
    runner = spread.app.test_cli_runner()
    moved = runner.invoke(args=["cells", "move", alice.organization_id, "eu"])
    assert moved.exit_code == 0, moved.output
    status = runner.invoke(args=["cells", "status", alice.organization_id, "--json"])
    assert '"cell": "eu"' in status.output
    reason = ["--reason", "ticket 4711: abuse"]
    suspended = runner.invoke(args=["organizations", "suspend", alice.organization_id, *reason])
    assert suspended.exit_code == 0, suspended.output
    assert query(spread, "eu", "SELECT status FROM organizations")[0][0] == "suspended"
    roles = runner.invoke(args=["db", "roles", "--cell", "eu", "--major", "15"])
    assert "GRANT SET ON PARAMETER session_replication_role TO saas_mover" in roles.output
    assert "Cells need PostgreSQL 15" in runner.invoke(args=["db", "roles", "--major", "14"]).output
    metrics = client.get("/metrics").text
    assert 'saas_database_up{cell="eu"} 1.0' in metrics
    unknown = runner.invoke(args=["cells", "move", alice.organization_id, "mars"])
    assert "CELLS names no cell mars" in unknown.output


def test_backups_and_archives_are_of_the_cell_in_which_the_command_runs(spread: Spread) -> None:
    with spread.app.app_context():
        assert backups.owner_url() == spread.app.config["DATABASE_OWNER_URL"]
        with cells.use("eu"):
            assert backups.owner_url() == spread.eu.owner_url
