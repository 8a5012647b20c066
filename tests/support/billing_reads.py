"""A company whose owner reads its bills through HTTP, while its account goes on through services."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask.testing import FlaskClient

from saas_api.billing import period_close, periods
from saas_api.core import clock
from tests.support import usage as http
from tests.support.billing import Company, day

MAY = day(1, 2, month=5)


@dataclass
class Reader:
    """A company, what happens to its account, and its owner's headers."""

    client: FlaskClient
    headers: dict[str, str]
    account: Company

    @contextmanager
    def at_work(self) -> Iterator[Company]:
        """The account, in a context that no request shares."""
        with self.client.application.app_context():
            yield self.account

    def close(self, at: datetime = MAY) -> None:
        clock.freeze_time(at)
        with self.at_work():
            assert not period_close.close_due(at).failed

    def ask(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> Any:
        """The whole answer, whatever its status."""
        return self.client.get(f"/api/v1{path}", query_string=query, headers=headers or self.headers)

    def get(self, path: str, **query: Any) -> Any:
        """The data of a successful answer."""
        answer = self.ask(path, **query)
        assert answer.status_code == 200, answer.json
        return answer.json["data"]

    def newest(self) -> Any:
        """The newest invoice as its page shows it."""
        return self.get(f"/billing/invoices/{self.get('/billing/history')['invoices'][0]['id']}")

    def line(self, kind: str) -> tuple[str, Any]:
        """Path and row of the newest invoice's first line of a kind."""
        invoice = self.newest()
        line = next(line for line in invoice["lines"] if line["kind"] == kind)
        return f"/billing/invoices/{invoice['id']}/lines/{line['id']}", line


def open_account(
    client: FlaskClient, plan: str = "starter@1", at: datetime | None = None, name: str = "Acme"
) -> Reader:
    """Sign up through HTTP; the account begins at an instant, on a plan."""
    signed_up = http.sign_up(client, name, f"owner@{name.lower()}.example", at=at or day(1))
    reader = Reader(client, signed_up.owner, Company(signed_up.id))
    with reader.at_work() as account:
        with account.transaction() as session:
            periods.ensure_account(session, account.id)
        if plan != "free@1":
            account.switch(plan, clock.now())
    return reader
