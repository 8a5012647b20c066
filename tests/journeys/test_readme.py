"""The quick start of README.md and docs/quickstart.md, pasted into a shell against a running web server and worker."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support import documented
from tests.support.documented import documents


@pytest.mark.long
@pytest.mark.usefixtures("app")
def test_quick_start_leads_from_sign_up_to_a_paid_invoice_and_a_team(config: dict[str, Any], tmp_path: Path) -> None:
    environment = documented.shell_environment(config)
    blocks = documented.read_blocks("README.md", "docs/quickstart.md")
    assert len(blocks) == 12
    with documented.running_server(environment, tmp_path / "log") as address:
        outputs = documented.paste(blocks, address, environment)
    _, _, _, status, usage, bill, change, payment, verified, joined, managed, repeated = outputs

    (message,) = documents(status)
    assert message["status"] == "delivered"

    summary = documents(usage)[0]["summary"]
    assert summary["total_requests"] == 1
    assert (summary["list_cost"], summary["total_cost"]) == ("0.01", "0.00")

    running, history = documents(bill)
    assert (running["status"], running["total_amount"]) == ("calculating", "0.00")
    (invoice,) = history["invoices"]
    assert invoice["number"]
    assert invoice["total_requests"] == 1

    preview, upgraded, sent = documents(change)
    assert abs(Decimal(preview["difference"]) - Decimal(upgraded["change"]["total"])) <= Decimal("0.01")
    assert upgraded["organization"]["plan"] == "pro"
    assert sent["cost"] == "0.005"
    paid = documents(payment)[-1]
    assert (paid["status"], paid["total_amount"], paid["amount_due"]) == ("paid", "0.01", "0.00")

    assert documents(verified)[0]["email_verified"] is True
    (invitation,) = documents(joined)
    assert invitation["email"].startswith("colleague@")
    promoted, log, _ = documents(managed)
    assert promoted["user"]["role"] == "admin"
    assert {"member.role_changed", "invitation.accepted"} <= {entry["action"] for entry in log["entries"]}

    first, second = repeated.split()[-2:]
    assert first == second
