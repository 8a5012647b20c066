"""Invoices as their organization reads them: the page, the explanation of a line, and the events behind it.

| caller | status |
|---|---|
| anonymous | 401 |
| owner, member | 200 |
| API key | 403, whatever its scopes |
| owner elsewhere | 404, as for an invoice that does not exist |
"""

import contextlib
import csv
import io
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from saas_api.billing import invoices
from saas_api.core import clock, ids
from tests.support import billing_actions as books
from tests.support.accounts import join, make_key, sign_in
from tests.support.billing import day
from tests.support.billing_reads import BillingReader, sign_up_for_billing
from tests.support.http_receiver import wait_until
from tests.support.ledger import USAGE_COLUMNS, append_sql

CENT = Decimal("0.01")


@pytest.fixture
def acme(client: FlaskClient) -> BillingReader:
    """April on starter: 305 segments and ten emails more than it includes, and two segments reversed."""
    reader = sign_up_for_billing(client)
    with reader.app_context() as account:
        account.use(5_304, at=day(10))
        account.use(50_010, "email", at=day(12))
        account.use(1, at=day(13))
        reverse_usage(reader, account.use(2, at=day(14)).id)
    reader.close()
    return reader


def reverse_usage(reader: BillingReader, event_id: Any) -> None:
    """Reverse an event in its own, open period."""
    sql = append_sql(
        f"{USAGE_COLUMNS}, reversal_of",
        """SELECT organization_id, 'reversal', id::text, meter_code, -quantity, occurred_at, billing_period_id, id,
            month FROM usage_events WHERE id = :id""",
    )
    with reader.account.transaction() as session:
        session.execute(text(sql), {"id": event_id})


def table(response: Any) -> list[dict[str, str]]:
    assert response.status_code == 200
    return list(csv.DictReader(io.StringIO(response.data.decode("utf-8-sig"), newline="")))


def test_invoice_shows_lines_and_sums(acme: BillingReader) -> None:
    invoice = acme.newest_invoice()
    assert [(line["kind"], line["meter"], line["amount"]) for line in invoice["lines"]] == [
        ("base", None, "29.00"),
        ("usage", "email", "0.01"),
        ("usage", "sms", "3.05"),
    ]
    assert (invoice["subtotal"], invoice["total_amount"], invoice["amount_due"]) == ("32.06", "32.06", "32.06")
    assert (invoice["status"], invoice["currency"], invoice["number"][:4]) == ("open", "USD", "INV-")
    assert invoice["bill_to"]["name"] == "Acme"
    assert invoice["seller"]["name"] == "saas-api"
    assert invoice["period"] == {
        "starts_at": "2026-04-01T00:00:00.000Z",
        "ends_at": "2026-05-01T00:00:00.000Z",
        "timezone": "UTC",
    }


@pytest.mark.parametrize("suffix", ["", "/pdf", "/lines/{line}/explain", "/lines/{line}/events.csv"])
def test_invoice_is_hidden_from_keys_and_other_organizations(
    carol: Any, acme: BillingReader, client: FlaskClient, suffix: str
) -> None:
    invoice = acme.newest_invoice()
    path = f"/billing/invoices/{invoice['id']}{suffix.format(line=invoice['lines'][0]['id'])}"
    assert acme.request(path).status_code == 200
    assert client.get(f"/api/v1{path}").status_code == 401
    response = acme.request(path, carol.headers)
    missing = acme.request(path.replace(invoice["id"], ids.format_id("inv", ids.new_id())))
    assert (response.status_code, missing.status_code) == (404, 404)
    assert {**response.json["error"], "request_id": ""} == {**missing.json["error"], "request_id": ""}
    clock.freeze_time(None)
    key = make_key(client, carol, scopes=["usage:read"])
    assert acme.request(path, key).status_code == 403


def test_viewer_reads_invoices(acme: BillingReader, app: Flask, client: FlaskClient) -> None:
    join(app, ids.format_id("org", acme.account.id), "viewer@acme.example", "viewer")
    path = f"/billing/invoices/{acme.newest_invoice()['id']}"
    clock.freeze_time(None)  # sessions expire by the real time
    assert acme.request(path, sign_in(client, "viewer@acme.example").headers).status_code == 200


def test_line_of_another_invoice_is_not_found(acme: BillingReader) -> None:
    first = acme.newest_invoice()
    acme.close(day(1, 2, month=6))
    second = acme.newest_invoice()
    crossed = f"/billing/invoices/{second['id']}/lines/{first['lines'][0]['id']}"
    assert second["id"] != first["id"]
    assert [acme.request(crossed + end).status_code for end in ("/explain", "/events.csv")] == [404, 404]


def test_draft_is_not_found(client: FlaskClient) -> None:
    reader = sign_up_for_billing(client)
    with reader.app_context() as account:
        books.require_review(account)
    reader.close()
    with reader.app_context() as account:
        [(draft,)] = account.rows("SELECT id FROM invoices WHERE state = 'draft'")
    assert reader.request(f"/billing/invoices/{ids.format_id('inv', draft)}").status_code == 404
    assert reader.get("/billing/history")["invoices"] == []


def test_event_data_is_the_invoice_of_the_list(client: FlaskClient) -> None:
    reader = sign_up_for_billing(client)
    with reader.app_context() as account:
        books.add_endpoint(account)
    reader.close()
    [listed] = reader.get("/billing/history")["invoices"]
    with reader.app_context() as account:
        [(_, data)] = books.published_events(account, "invoice.finalized")
    own_fields = {"object": "invoice", "attempt": 0, "next_attempt_at": None, "version": 2}
    assert {**listed, **own_fields} == {**data, "total_requests": listed["total_requests"]}
    assert data["amount_due"] == "29.00"


def test_event_schema_describes_the_event_data(acme: BillingReader) -> None:
    types = acme.get("/webhooks/event-types")["event_types"]
    [entry] = [entry for entry in types if entry["type"] == "invoice.paid"]
    data = entry["schema"]["properties"]["data"]
    assert {"period", "amount_due", "due_date", "attempt", "version"} <= set(data["required"])
    assert data["properties"]["due_date"] == {"type": "string", "format": "date-time"}


def test_history_is_filtered_by_year(acme: BillingReader) -> None:
    assert len(acme.get("/billing/history", year=2026)["invoices"]) == 1
    assert acme.get("/billing/history", year=2025)["invoices"] == []
    for wrong in ("26", "20x6", "-1", "99999"):
        response = acme.request("/billing/history", year=wrong)
        assert response.json["error"]["details"]["fields"][0]["field"] == "year"


def follow(rated: Any) -> Decimal:
    """Work an explanation out by hand."""
    parts = rated["parts"]
    amounts = [Decimal(part["units"]) * Decimal(part["unit_price"]) + Decimal(part["flat_amount"]) for part in parts]
    assert [Decimal(part["amount"]) for part in parts] == amounts
    assert Decimal(rated["exact_amount"]) == sum(amounts)
    return sum(amounts, Decimal(0)).quantize(CENT, ROUND_HALF_UP)


def test_usage_line_explanation_recomputes_the_amount(acme: BillingReader) -> None:
    path, line = acme.line("usage")
    explanation = acme.get(f"{path}/explain")
    assert line["meter"] == "email"
    assert explanation["counted"]["events"] == 1
    assert (explanation["rated"]["quantity"], explanation["rated"]["billable"]) == ("50010", "10")
    assert explanation["rated"]["exact_amount"] == "0.01"
    assert follow(explanation["rated"]) == Decimal(line["amount"]) == Decimal(explanation["recomputed_amount"])
    assert explanation["steps"][-1] == "Rounded half up, once: $0.01."


def test_reversed_usage_is_counted_apart(acme: BillingReader) -> None:
    sms = next(line for line in acme.newest_invoice()["lines"] if line["meter"] == "sms")
    explanation = acme.get(f"/billing/invoices/{acme.newest_invoice()['id']}/lines/{sms['id']}/explain")
    assert (explanation["counted"]["events"], explanation["counted"]["reversals"]) == (3, 1)
    assert (explanation["counted"]["quantity"], sms["quantity"]) == ("5305", "5305")


def test_explanation_shows_every_tier(client: FlaskClient) -> None:
    reader = sign_up_for_billing(client, "scale@1")
    with reader.app_context() as account:
        account.use(1_250_000, at=day(10))
    reader.close()
    explanation = reader.get(f"{reader.line('usage')[0]}/explain")
    assert [(part["units"], part["unit_price"]) for part in explanation["rated"]["parts"]] == [
        ("100000", "0.004"),
        ("900000", "0.003"),
        ("250000", "0.002"),
    ]
    assert [tier["up_to"] for tier in explanation["price"]["tiers"]] == ["100000", "1000000", None]
    assert follow(explanation["rated"]) == Decimal("3600.00")


def test_late_usage_explanation_shows_charges_before_and_after(client: FlaskClient) -> None:
    reader = sign_up_for_billing(client, "scale@1", at=day(1, month=3))
    with reader.app_context() as account:
        account.use(99_990, at=day(10, month=3))
    reader.close(day(1, 2))
    with reader.app_context() as account:
        account.use(20, at=day(20, month=3), is_late=True)
    reader.close()
    path, line = reader.line("late_usage")
    explanation = reader.get(f"{path}/explain")
    assert (
        explanation["before"]["quantity"],
        explanation["rated"]["quantity"],
        explanation["counted"]["quantity"],
    ) == (
        "99990",
        "100010",
        "20",
    )
    assert follow(explanation["rated"]) - follow(explanation["before"]) == Decimal(line["amount"]) == Decimal("0.07")
    assert [row["quantity"] for row in table(reader.request(f"{path}/events.csv"))] == ["20"]


def test_base_for_half_a_month_shows_its_proration(client: FlaskClient) -> None:
    reader = sign_up_for_billing(client, at=day(20, 12, month=3))
    reader.close(day(1, 2))
    path, line = reader.line("base")
    explanation = reader.get(f"{path}/explain")["proration"]
    assert (explanation["used"], explanation["whole"], explanation["full_amount"]) == (
        "11 days 12 hours",
        "31 days",
        "29.00",
    )
    exact = (
        Decimal(explanation["full_amount"])
        * Decimal(explanation["used_seconds"])
        / Decimal(explanation["whole_seconds"])
    )
    assert exact.quantize(CENT, ROUND_HALF_UP) == Decimal(line["amount"]) == Decimal("10.76")
    assert Decimal(explanation["exact_amount"]) == exact.quantize(Decimal("1e-10"), "ROUND_DOWN")
    assert table(reader.request(f"{path}/events.csv")) == []


def test_usage_reversed_after_invoicing_is_explained_as_carried(client: FlaskClient) -> None:
    reader = sign_up_for_billing(client, "free@1", at=day(1, month=3))
    with reader.app_context() as account:
        account.use(1_001, at=day(10, month=3))
        failed = account.use(2, at=day(11, month=3))
    reader.close(day(1, 2))
    with reader.app_context() as account:
        account.reverse(failed)
    reader.close()
    path, _ = reader.line("late_usage")
    late, carry = reader.get(f"{path}/explain"), reader.get(f"{reader.line('carry')[0]}/explain")
    assert (late["recomputed_amount"], carry["recomputed_amount"]) == ("-0.02", "0.02")
    [row] = table(reader.request(f"{path}/events.csv"))
    assert (row["quantity"], row["reversal_of"], row["source"]) == ("-2", failed.id.hex, "reversal")
    assert reader.get("/billing/wallet")["balances"] == [{"amount": "0.00", "currency": "USD"}]
    march = reader.get("/billing/history")["invoices"][-1]
    assert (march["total_amount"], march["amount_due"]) == ("0.03", "0.01")  # the carried credit pays it


def test_events_of_a_line_add_up_to_its_quantity_with_reversals(acme: BillingReader) -> None:
    sms = next(line for line in acme.newest_invoice()["lines"] if line["meter"] == "sms")
    response = acme.request(f"/billing/invoices/{acme.newest_invoice()['id']}/lines/{sms['id']}/events.csv")
    rows = table(response)
    assert response.headers["Content-Type"].startswith("text/csv")
    assert response.headers["Content-Disposition"].startswith('attachment; filename="INV-')
    assert [row["quantity"] for row in rows] == ["5304", "1", "2", "-2"]
    assert rows[3]["reversal_of"] == rows[2]["event_id"]
    assert sum(Decimal(row["quantity"]) for row in rows) == Decimal(sms["quantity"])


def test_event_batches_of_any_size_lose_and_repeat_none(acme: BillingReader, monkeypatch: pytest.MonkeyPatch) -> None:
    sms = next(line for line in acme.newest_invoice()["lines"] if line["meter"] == "sms")
    path = f"/billing/invoices/{acme.newest_invoice()['id']}/lines/{sms['id']}/events.csv"
    whole = acme.request(path).data
    for size in (1, 2, 4):
        monkeypatch.setattr(invoices, "_EVENT_BATCH_SIZE", size)
        assert acme.request(path).data == whole


def test_event_csv_escapes_formulas(client: FlaskClient) -> None:
    reader = sign_up_for_billing(client)
    with reader.app_context() as account:
        event = account.use(1, at=day(10))
        sql = append_sql(
            USAGE_COLUMNS,
            """SELECT organization_id, :source, '=HYPERLINK("http://x.example")', meter_code, 1, occurred_at,
              billing_period_id, month FROM usage_events WHERE id = :id""",
        )
        for source in ("+1", "-1", "@x", "=1+1", "\tx", 'plain, "quoted"'):
            with account.transaction() as session:
                session.execute(text(sql), {"id": event.id, "source": source})
    reader.close()
    rows = table(reader.request(f"{reader.line('usage')[0]}/events.csv"))[1:]
    assert [row["source"] for row in rows] == ["'+1", "'-1", "'@x", "'=1+1", "'\tx", 'plain, "quoted"']
    assert {row["idempotency_key"] for row in rows} == {'\'=HYPERLINK("http://x.example")'}


def test_long_event_csv_is_streamed_without_holding_a_connection(acme: BillingReader, app: Flask) -> None:
    with acme.app_context() as account, account.transaction() as session:
        session.execute(
            text(
                append_sql(
                    USAGE_COLUMNS,
                    """SELECT organization_id, 'messages.send', n::text, 'sms', 1, '2026-05-02', id, month
                      FROM billing_periods, generate_series(1, 5000) n
                      WHERE '2026-05-02' BETWEEN starts_at AND ends_at""",
                )
            ),
        )
    acme.close(day(1, 2, month=6))
    path, _ = acme.line("usage")
    response = app.test_client().get(f"/api/v1{path}/events.csv", headers=acme.headers, buffered=False)
    with contextlib.closing(response):
        pieces = iter(response.response)
        first = next(pieces)
        assert len(first) < 200_000
        wait_until(lambda: busy_connections(app) == 0)  # a thread may write what was counted just now
        rest = b"".join(piece if isinstance(piece, bytes) else piece.encode() for piece in pieces)
        assert rest.count(b"\n") + first.count(b"\n") == 5_001


def busy_connections(app: Flask) -> int:
    from saas_api.core.db.engine import db

    with app.app_context():
        return int(db.engine.pool.checkedout())  # type: ignore[attr-defined]  # a QueuePool has it
