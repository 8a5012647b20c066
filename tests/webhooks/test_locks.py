"""What happens to one endpoint at once waits in one order: nothing is refused, sent twice or undone for it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from saas_api.accounts import organizations
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.core.jobs import outbox
from saas_api.webhooks import dispatch, events, jobs
from saas_api.webhooks.dispatch import AttemptResult
from saas_api.webhooks.events import EventSubject
from saas_api.webhooks.models import AttemptOutcome
from tests.support.webhooks import Company, endpoint_of


def id_of(made: dict[str, Any]) -> Any:
    return ids.parse_id("whe", made["id"])


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_who_changed_the_organization_may_publish_while_its_endpoint_is_changed(
    app: Flask, acme: Company, method: str
) -> None:
    path, body = f"/endpoints/{acme.listen()['id']}", {"is_enabled": False} if method == "PATCH" else None
    answers: list[Any] = []

    def end() -> None:
        answers.append(app.test_client().open(f"/api/v1/webhooks{path}", method=method, json=body, **who))

    who = {"headers": acme.owner.headers}
    ending = threading.Thread(target=end)
    with app.app_context(), tenancy.tenant_session(acme.id) as session:
        organizations.bump_generation(session, acme.id)
        ending.start()
        time.sleep(0.5)
        events.publish(session, acme.id, "invoice.paid", EventSubject(ids.new_id()), {})
    ending.join(10)
    assert answers[0].status_code == 200
    assert acme.rows("SELECT status FROM webhook_deliveries") == [("canceled",)]


def test_two_endpoints_may_be_gone_at_once(app: Flask, acme: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [acme.listen(), acme.listen()]
    acme.report()
    publish = events.publish

    def publish_slowly(*what: Any) -> None:
        time.sleep(0.5)
        publish(*what)

    monkeypatch.setattr(events, "publish", publish_slowly)
    with app.app_context():
        claimed = [dispatch.claim_deliveries((acme.id, id_of(one)), 1, 1)[0] for one in made]

    def write(index: int) -> int:
        one = claimed[index]
        with app.app_context():
            return dispatch.record_results(
                one.owner, one.claim, [AttemptResult(one, AttemptOutcome.HTTP_ERROR, 1, 410)]
            )

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write, range(2))) == [0, 0]
    assert {row.status for row in acme.rows("SELECT status FROM webhook_endpoints")} == {"disabled_gone"}
    assert acme.rows("SELECT FROM webhook_deliveries WHERE next_at IS NOT NULL") == []


def test_an_endpoint_that_recovers_at_the_last_moment_stays(app: Flask, acme: Company) -> None:
    acme.listen()
    acme.run("UPDATE webhook_endpoints SET first_failure_at = now(), consecutive_failures = 1")
    clock.freeze_time(clock.now() + timedelta(days=5, hours=1))
    disabled: list[Any] = []

    def clean() -> None:
        with app.app_context():
            disabled.append(jobs.disable_failing())

    cleaning = threading.Thread(target=clean)
    with app.app_context(), tenancy.tenant_session(acme.id) as session:
        session.execute(text("UPDATE webhook_endpoints SET first_failure_at = NULL, last_success_at = now()"))
        cleaning.start()
        time.sleep(0.5)
    cleaning.join(10)
    assert disabled == [{"disabled": 0}]
    assert endpoint_of(acme).status == "enabled"


def test_those_that_stay_due_do_not_keep_others_off_the_list(
    app: Flask, acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_OWNERS_PER_SCAN", 1)
    made = {id_of(acme.listen()) for _ in range(2)}
    acme.report()
    acme.run("UPDATE webhook_deliveries SET next_at = next_at - random() * interval '1 min'")
    with app.app_context():
        assert {endpoint for _ in range(50) for _, endpoint in dispatch.list_due_endpoints().owners} == made


def test_a_token_in_an_address_is_told_to_nobody_else(app: Flask, acme: Company) -> None:
    made = acme.listen("http://127.0.0.1:9/hook?token=hidden")
    acme.listen()
    acme.run("UPDATE webhook_endpoints SET first_failure_at = now() - interval '6 days' WHERE url LIKE '%token%'")
    with app.app_context():
        assert jobs.disable_failing() == {"disabled": 1}
        with tenancy.system_session("mail.due") as session:
            mails = list(
                session.scalars(text("SELECT text_body || html_body FROM mails WHERE template = 'webhook_disabled'"))
            )
    told = [row.payload for row in acme.rows("SELECT payload FROM events WHERE type = 'webhook_endpoint.disabled'")]
    assert len(mails) == len(told) == 1
    assert "hidden" not in mails[0] + told[0]
    assert acme.call("GET", f"/endpoints/{made['id']}").json["data"]["url"].endswith("?token=hidden")
