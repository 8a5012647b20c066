"""An owner who reads invoices through HTTP, while the account is changed through services."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask.testing import FlaskClient

from saas_api.billing import period_close, periods
from saas_api.core import clock
from tests.support.accounts import User
from tests.support.billing import BillingOrganization, day
from tests.support.usage import sign_up_organization

MAY = day(1, 2, month=5)


@dataclass
class BillingReader:
    """An organization's account and the HTTP client of its owner."""

    client: FlaskClient
    headers: dict[str, str]
    account: BillingOrganization

    @contextmanager
    def app_context(self) -> Iterator[BillingOrganization]:
        """The account, in an application context of its own."""
        with self.client.application.app_context():
            yield self.account

    def close(self, at: datetime = MAY) -> None:
        clock.freeze_time(at)
        with self.app_context():
            assert not period_close.close_due(at).failed

    def request(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> Any:
        """The response, whatever its status."""
        return self.client.get(f"/api/v1{path}", query_string=query, headers=headers or self.headers)

    def get(self, path: str, **query: Any) -> Any:
        """The data of a successful response."""
        response = self.request(path, **query)
        assert response.status_code == 200, response.json
        return response.json["data"]

    def newest_invoice(self) -> Any:
        """The newest invoice in detail."""
        return self.get(f"/billing/invoices/{self.get('/billing/history')['invoices'][0]['id']}")

    def line(self, kind: str) -> tuple[str, Any]:
        """Path and data of the first line of a kind on the newest invoice."""
        invoice = self.newest_invoice()
        line = next(line for line in invoice["lines"] if line["kind"] == kind)
        return f"/billing/invoices/{invoice['id']}/lines/{line['id']}", line


def sign_up_for_billing(
    client: FlaskClient, plan: str = "starter@1", at: datetime | None = None, name: str = "Acme"
) -> BillingReader:
    """Sign up through HTTP at an instant, with an account on a plan."""
    signed_up = sign_up_organization(client, name, f"owner@{name.lower()}.example", at=at or day(1))
    reader = BillingReader(client, signed_up.owner.headers, BillingOrganization(signed_up.id))
    with reader.app_context() as account:
        with account.transaction() as session:
            periods.ensure_account(session, account.id)
        if plan != "free@1":
            account.switch(plan, clock.now())
    return reader


def period_end(client: FlaskClient, user: User) -> datetime:
    """Return when the running period ends; a first period of less than a day includes the next month."""
    response = client.get("/api/v1/billing/subscription", headers=user.headers)
    assert response.status_code == 200, response.json
    return datetime.fromisoformat(response.json["data"]["period"]["ends_at"])
