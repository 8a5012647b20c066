"""`flask plans archive`: an archived plan is not offered, and its subscribers stay on it."""

import json
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core.db import tenancy
from tests.support.accounts import User

PLAN = "scale"


def archive(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["plans", "archive", *arguments])


def offered_plans(client: FlaskClient) -> list[str]:
    return [plan["code"] for plan in client.get("/api/v1/billing/plans").json["data"]["plans"]]


def upgrade(client: FlaskClient, user: User, plan: str) -> int:
    body = {"plan": plan, "when": "now"}
    return int(client.post("/api/v1/billing/upgrade", json=body, headers=user.headers).status_code)


@pytest.fixture(autouse=True)
def catalogue(app: Flask) -> Iterator[None]:
    yield
    with app.app_context(), tenancy.system_session("billing.catalogue") as session:
        session.execute(sa.text("UPDATE plans SET archived_at = NULL"))


def audit_actions(app: Flask) -> list[str]:
    sql = "SELECT action FROM audit_events WHERE action LIKE 'plan.%' ORDER BY id"
    with app.app_context(), tenancy.system_session("billing.catalogue") as session:
        return list(session.scalars(sa.text(sql)))


def test_archived_plan_is_not_offered_until_restored(app: Flask, client: FlaskClient) -> None:
    assert PLAN in offered_plans(client)
    assert archive(app, PLAN, "--reason", "replaced by team").stdout == f"{PLAN} is offered no longer.\n"
    assert PLAN not in offered_plans(client)
    listed = json.loads(app.test_cli_runner().invoke(args=["plans", "list", "--json"]).stdout)["plans"]
    assert [plan["plan"] for plan in listed if plan["is_archived"]] == [PLAN]
    assert archive(app, PLAN).stdout == f"{PLAN} is offered no longer; it was so before.\n"
    assert archive(app, PLAN, "--undo").exit_code == 0
    assert PLAN in offered_plans(client)
    assert audit_actions(app) == ["plan.retired", "plan.offered_again"]


def test_archived_plan_keeps_its_subscribers_and_accepts_no_others(
    app: Flask, client: FlaskClient, alice: User, carol: User
) -> None:
    assert upgrade(client, alice, PLAN) == 200
    archive(app, PLAN)
    plan = client.get("/api/v1/billing/subscription", headers=alice.headers).json["data"]["plan"]
    assert plan["code"] == PLAN
    assert upgrade(client, carol, PLAN) == 422


def test_default_plan_cannot_be_archived(app: Flask, client: FlaskClient) -> None:
    done = archive(app, "free")
    assert (done.exit_code, done.stderr.partition(":")[0]) == (1, "PLAN_NEEDED")
    assert "free" in offered_plans(client)


def test_unknown_plan_is_an_error(app: Flask) -> None:
    done = archive(app, "nonsense")
    assert (done.exit_code, done.stderr) == (
        1,
        "NOT_FOUND: There is no such plan. Look whether the id is whole and of this organization.\n",
    )
    assert audit_actions(app) == []
