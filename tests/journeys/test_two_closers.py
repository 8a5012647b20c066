"""Two processes close the same period at once and create one invoice."""

from datetime import timedelta
from typing import Any

from flask.testing import FlaskClient

from saas_api.core import clock
from tests.support.accounts import make_key, sign_up
from tests.support.billing_reads import period_end
from tests.support.closing import CloseRunner
from tests.support.messages import send_message


def test_two_processes_closing_one_period_write_one_invoice(client: FlaskClient, config: dict[str, Any]) -> None:
    owner = sign_up(client)
    key = make_key(client, owner)
    send_message(client, key)
    after_the_period = clock.format_rfc3339(period_end(client, owner) + timedelta(hours=2))

    slow = "billing.after_close:sleep=2"
    runs = CloseRunner(config).close(after_the_period, slow, slow)

    assert [run.status for run in runs] == [0, 0]
    written = [invoice["number"] for run in runs for invoice in run.result["invoices"]]
    invoices = client.get("/api/v1/billing/history", headers=owner.headers).json["data"]["invoices"]
    assert sorted(written) == sorted(invoice["number"] for invoice in invoices)
    assert len(set(written)) == len(written) == sum(run.result["closed"] for run in runs)
    assert sum(invoice["total_requests"] for invoice in invoices) == 1
