"""The export of an organization's data as a ZIP archive."""

import contextlib
import csv
import io
import zipfile
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import organizations, throttles
from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.web.pages import MAX_EXPORT_ROWS
from saas_api.dashboard import data_export
from tests.support.account_mails import audit_events, execute, mail_texts, post_auth
from tests.support.accounts import PASSWORD, User, add_member, create_key
from tests.support.messages import send_message
from tests.support.pages import Browser
from tests.support.webhooks import ENDPOINTS

PAGE = "/dashboard/settings/export"
FILES = {
    *("messages-live", "messages-test", "usage-live", "usage-test", "invoices", "audit-log", "api-keys"),
    *("webhook-endpoints", "webhook-deliveries"),
}


def fill(app: Flask, client: FlaskClient, user: User, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Give an organization rows for the lists, and return ids and secrets that belong to it."""
    monkeypatch.setitem(app.config, "WEBHOOK_ALLOWED_NETWORKS", ["127.0.0.0/8"])
    endpoint = client.post(ENDPOINTS, json={"url": "https://hooks.example.com/x"}, headers=user.headers).json["data"]
    key_id, key = create_key(client, user, mode="test")
    message = send_message(client, key)
    return {
        "key": key_id,
        "key_secret": key["X-API-Key"],
        "endpoint": endpoint["id"],
        "endpoint_secret": endpoint["secret"],
        "message": message,
        "user": user.user_id,
    }


def download(app: Flask, user: User) -> dict[str, str]:
    """The texts of the archive, by the name of the file."""
    response = Browser(app, user).submit(PAGE)
    assert response.status_code == 200, response.text
    assert response.mimetype == "application/zip"
    with zipfile.ZipFile(io.BytesIO(response.data)) as archive:
        assert archive.testzip() is None
        return {name.removesuffix(".csv"): archive.read(name).decode("utf-8-sig") for name in archive.namelist()}


def test_archive_has_each_list_without_secrets_and_without_rows_of_others(
    app: Flask, client: FlaskClient, alice: User, carol: User, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, foreign = (fill(app, client, user, monkeypatch) for user in (alice, carol))
    files = download(app, alice)
    assert set(files) == {*FILES, "README.txt"}
    rows = {name: list(csv.DictReader(io.StringIO(files[name]))) for name in FILES}
    assert [row["message_id"] for row in rows["messages-test"]] == [own["message"]]
    assert [row["id"] for row in rows["api-keys"]] == [own["key"]]
    assert [row["id"] for row in rows["webhook-endpoints"]] == [own["endpoint"]]
    assert sum(int(row["requests"]) for row in rows["usage-test"]) == 1
    assert "api_key.created" in {row["action"] for row in rows["audit-log"]}
    everything = "".join(files.values())
    for value in (*foreign.values(), carol.email, carol.organization_id, own["key_secret"], own["endpoint_secret"]):
        assert value not in everything, value
    for name in FILES:
        assert f"{name}.csv: {len(rows[name])} rows" in files["README.txt"]


def test_no_list_has_rows_of_another_organization_than_that_of_the_transaction(
    app: Flask, client: FlaskClient, alice: User, carol: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for carol's rows in a transaction of alice's, PostgreSQL has none."""
    fill(app, client, carol, monkeypatch)
    alices, carols = (ids.parse_id("org", user.organization_id) for user in (alice, carol))
    with app.app_context():
        with tenancy.tenant_session(carols) as session:
            organization = organizations.get_organization(session, carols)
            assert any(list(exported.rows(session, organization)) for exported in data_export.LISTS)
        for exported in data_export.LISTS:
            has_price = exported.name.startswith("usage")  # of a plan that cannot be read either
            with (
                pytest.raises(IndexError) if has_price else contextlib.nullcontext(),
                tenancy.tenant_session(alices) as session,
            ):
                assert list(exported.rows(session, organization)) == [], exported.name


@pytest.mark.parametrize("role", ["member", "billing", "viewer"])
def test_members_who_may_not_change_the_organization_export_nothing(app: Flask, alice: User, role: str) -> None:
    browser = Browser(app, add_member(alice, f"{role}@acme.example", role))
    assert browser.open(PAGE).status_code == 403
    token = browser.form("/dashboard/account")["csrf_token"]
    assert browser.send(PAGE, {"csrf_token": token}).status_code == 403
    assert "Export data" not in browser.open("/dashboard/settings").text


def test_export_asks_for_the_password_is_recorded_and_mailed_to_the_owner(
    app: Flask, client: FlaskClient, alice: User, superuser: Any
) -> None:
    execute(superuser, "UPDATE users SET email_verified_at = now()")
    admin = add_member(alice, "dora@acme.example", "admin", "Dora")
    data = post_auth(client, "/refresh", refresh_token=admin.refresh_token).json["data"]
    old = User(admin.email, admin.user_id, admin.organization_id, "admin", data["token"], data["refresh_token"], client)
    assert Browser(app, old).submit(PAGE).status_code == 422
    assert audit_events(superuser, "organization.exported") == []
    exported = Browser(app, old).submit(PAGE, confirm_password=PASSWORD)
    assert (exported.status_code, exported.data[:2]) == (200, b"PK")
    assert len(audit_events(superuser, "organization.exported")) == 1
    assert "data was exported" in mail_texts(superuser, "security_notice", alice.email)[-1]


def test_closed_organization_is_exported(app: Flask, alice: User, superuser: Any) -> None:
    execute(superuser, "UPDATE organizations SET status = 'closed', closed_at = now()")
    assert set(download(app, alice)) == {*FILES, "README.txt"}


def test_exports_of_an_organization_are_limited(app: Flask, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_export, "LISTS", ())
    browser = Browser(app, alice)
    for _ in range(throttles.EXPORTS_PER_HOUR):
        assert browser.submit(PAGE).data[:2] == b"PK"
    assert browser.submit(PAGE).status_code == 429


def test_readme_says_which_lists_may_have_older_rows() -> None:
    assert "the newest" not in data_export._describe("invoices", MAX_EXPORT_ROWS - 1)
    assert "the newest" in data_export._describe("invoices", MAX_EXPORT_ROWS)
