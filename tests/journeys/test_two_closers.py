"""Two processes close the same month at the same time: one invoice, with one number."""

from datetime import timedelta
from typing import Any

from flask.testing import FlaskClient

from saas_api.core import clock
from tests.support.closing import CloseRunner
from tests.support.journeys import make_key, period_end, send, sign_up


def test_two_processes_closing_one_period_write_one_invoice(client: FlaskClient, config: dict[str, Any]) -> None:
    person = sign_up(client, "Acme", "alice@acme.example")
    _, key = make_key(client, person)
    send(client, key)
    after_the_period = clock.format_rfc3339(period_end(client, person) + timedelta(hours=2))

    slow = "billing.after_close:sleep=2"
    runs = CloseRunner(config).close(after_the_period, slow, slow)

    assert [run.status for run in runs] == [0, 0]
    written = [invoice["number"] for run in runs for invoice in run.result["invoices"]]
    invoices = client.get("/api/v1/billing/history", headers=person).json["data"]["invoices"]
    assert sorted(written) == sorted(invoice["number"] for invoice in invoices)
    assert len(set(written)) == len(written) == sum(run.result["closed"] for run in runs)
    assert sum(invoice["total_requests"] for invoice in invoices) == 1
