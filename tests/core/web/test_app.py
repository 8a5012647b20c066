"""One request, one transaction: what the client is told is what was committed, and nothing leaves before it."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, Response
from flask.testing import FlaskClient

from saas_api.core.access import public_view
from saas_api.core.db import engine
from saas_api.core.db.engine import db
from saas_api.core.errors import Conflict, ValidationFailed
from saas_api.core.fields import PageQuery, StrictInteger, StrictSchema, Text
from saas_api.core.web import app as web_app
from saas_api.core.web import http
from saas_api.core.web.app import App
from saas_api.core.web.endpoint import Result, endpoint

left: list[str] = []


class TwinTaken(Conflict):
    code, message, constraint = "TWIN_TAKEN", "There is one already.", "probe_twin_key"


class RowIn(StrictSchema):
    id = StrictInteger(required=True)
    twin = StrictInteger(load_default=1)
    text = Text(maximum=5)


ROW_IN = RowIn()
INSERT = sa.text("INSERT INTO probe VALUES (:id, :twin)")


def _insert(body: dict[str, Any]) -> None:
    engine.session().execute(INSERT, {"id": body["id"], "twin": body["twin"]})
    engine.after_commit(engine.session(), lambda: left.append("told"))


@public_view
@endpoint(operation_id="insert", tag="probe", body=ROW_IN, status=201)
def insert(body: dict[str, Any]) -> Any:
    _insert(body)
    return Result({"id": body["id"]}, message="Made.")


@public_view
@endpoint(operation_id="insert_then_refuse", tag="probe", body=ROW_IN)
def insert_then_refuse(body: dict[str, Any]) -> Any:
    _insert(body)
    raise ValidationFailed.at_field("id", "no")


@public_view
@endpoint(operation_id="insert_then_crash", tag="probe", body=ROW_IN)
def insert_then_crash(body: dict[str, Any]) -> Any:
    _insert(body)
    raise RuntimeError("a secret of ours")


@public_view
def insert_then_answer_422() -> Response:
    _insert({"id": 1, "twin": 1})
    return Response("no", 422)


@public_view
@endpoint(operation_id="insert_and_fail_to_tell", tag="probe", body=ROW_IN)
def insert_and_fail_to_tell(body: dict[str, Any]) -> Any:
    _insert(body)
    engine.after_commit(engine.session(), lambda: 1 // 0)
    return {}


@public_view
@endpoint(operation_id="page", tag="probe", query=PageQuery())
def page(query: dict[str, Any]) -> Any:
    return query


VIEWS = (insert, insert_then_refuse, insert_then_crash, insert_and_fail_to_tell)


@pytest.fixture
def small(app: Flask) -> Iterator[App]:
    """An application of nothing but core, on the same database, with a table of its own."""
    owner = sa.create_engine(app.config["DATABASE_URL"])
    with owner.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS probe"))
        connection.execute(
            sa.text("CREATE TABLE probe (id int PRIMARY KEY, twin int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        )
        connection.execute(sa.text("GRANT ALL ON probe TO saas_tenant"))
    made = App("small")
    made.config.from_mapping(app.config)
    made.config["SQLALCHEMY_ENGINE_OPTIONS"] = engine.engine_options()
    db.init_app(made)
    http.init_app(made)
    web_app.init_app(made)
    for view in VIEWS:
        made.add_url_rule(f"/api/v1/{view.__name__}", view_func=view, methods=["POST"])
    made.add_url_rule("/api/v1/answer_422", view_func=insert_then_answer_422, methods=["POST"])
    made.add_url_rule("/api/v1/page", view_func=page)
    left.clear()
    yield made
    with made.app_context():
        db.engine.dispose()
    with owner.begin() as connection:
        connection.execute(sa.text("DROP TABLE probe"))
    owner.dispose()


@pytest.fixture
def visitor(small: App) -> FlaskClient:
    return small.test_client()


def rows(small: App) -> int:
    with small.app_context():
        return int(engine.execute_batch([("SELECT count(*) FROM probe", {})])[0][0])


def test_a_success_is_committed_and_then_told(small: App, visitor: FlaskClient) -> None:
    answer = visitor.post("/api/v1/insert", json={"id": 1})
    assert (answer.status_code, answer.json) == (201, {"success": True, "data": {"id": 1}, "message": "Made."})
    assert (rows(small), left) == (1, ["told"])


@pytest.mark.parametrize(
    ("path", "status"), [("insert_then_refuse", 422), ("insert_then_crash", 500), ("answer_422", 422)]
)
def test_what_is_no_success_is_rolled_back_and_never_told(
    small: App, visitor: FlaskClient, path: str, status: int
) -> None:
    assert visitor.post(f"/api/v1/{path}", json={"id": 1}).status_code == status
    assert (rows(small), left) == (0, [])


def test_a_constraint_that_fails_at_commit_is_a_conflict_and_nothing_is_told(small: App, visitor: FlaskClient) -> None:
    visitor.post("/api/v1/insert", json={"id": 1, "twin": 7})
    left.clear()
    answer = visitor.post("/api/v1/insert", json={"id": 2, "twin": 7})
    assert (answer.status_code, answer.json["error"]["code"]) == (409, "TWIN_TAKEN")
    assert (rows(small), left) == (1, [])


def test_a_crash_shows_nothing_of_the_inside(visitor: FlaskClient) -> None:
    answer = visitor.post("/api/v1/insert_then_crash", json={"id": 1})
    assert answer.json["error"]["code"] == "INTERNAL_ERROR"
    assert "secret" not in answer.text


def test_what_cannot_be_told_after_the_commit_does_not_undo_it(small: App, visitor: FlaskClient) -> None:
    assert visitor.post("/api/v1/insert_and_fail_to_tell", json={"id": 1}).status_code == 200
    assert rows(small) == 1


@pytest.mark.parametrize(
    ("body", "mimetype", "status", "code"),
    [
        (b"{", "application/json", 400, "INVALID_REQUEST"),
        (b"[]", "application/json", 400, "INVALID_REQUEST"),
        (b'{"id": NaN}', "application/json", 400, "INVALID_REQUEST"),
        (b'{"id": ' + b"[" * 40 + b"]" * 40 + b"}", "application/json", 400, "INVALID_REQUEST"),
        (b'{"id": ' + b"[" * 2000 + b"]" * 2000 + b"}", "application/json", 400, "INVALID_REQUEST"),
        (b'{"id": 1}', "text/plain", 415, "UNSUPPORTED_MEDIA_TYPE"),
        (b'{"id": 1, "text": "' + b"x" * 65_536 + b'"}', "application/json", 413, "BODY_TOO_LARGE"),
    ],
)
def test_a_body_that_cannot_be_read_is_named(
    visitor: FlaskClient, body: bytes, mimetype: str, status: int, code: str
) -> None:
    answer = visitor.post("/api/v1/insert", data=body, content_type=mimetype)
    assert (answer.status_code, answer.json["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["id"]),
        ({"id": 5.5, "twin": "5", "x": 1}, ["id", "twin", "x"]),
        ({"id": True}, ["id"]),
        ({"id": 1, "text": "a\x00"}, ["text"]),
        ({"id": 1, "text": "abcdef"}, ["text"]),
        ({"id": -1, "text": ""}, ["id", "text"]),
    ],
)
def test_every_problem_of_a_body_is_told_at_once(visitor: FlaskClient, body: dict[str, Any], fields: list[str]) -> None:
    answer = visitor.post("/api/v1/insert", json=body)
    assert answer.status_code == 422
    assert sorted(problem["field"] for problem in answer.json["error"]["details"]["fields"]) == fields


@pytest.mark.parametrize("limit", ["0", "101", "x", "1.5", "-1", "٣", "9999999999"])
def test_a_limit_that_is_none_is_refused(visitor: FlaskClient, limit: str) -> None:
    assert visitor.get("/api/v1/page", query_string={"limit": limit}).status_code == 422


def test_an_unknown_query_parameter_is_refused(visitor: FlaskClient) -> None:
    assert visitor.get("/api/v1/page?limt=5").status_code == 422


def test_every_answer_carries_a_request_id_and_the_safe_headers(visitor: FlaskClient) -> None:
    for answer in (visitor.get("/api/v1/page"), visitor.get("/api/v1/nothing"), visitor.delete("/api/v1/page")):
        assert answer.headers["X-Request-Id"].startswith("req_")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["Cache-Control"] == "no-store"


def test_a_request_id_of_the_client_is_kept_when_it_is_one(visitor: FlaskClient) -> None:
    kept = visitor.get("/api/v1/page", headers={"X-Request-Id": "client-chosen-1"})
    refused = visitor.get("/api/v1/page", headers={"X-Request-Id": "no spaces please"})
    assert kept.headers["X-Request-Id"] == "client-chosen-1"
    assert refused.headers["X-Request-Id"].startswith("req_")


def test_the_error_of_a_missing_path_and_method_is_the_envelope(visitor: FlaskClient) -> None:
    assert visitor.get("/api/v1/nothing").json["error"]["code"] == "NOT_FOUND"
    assert visitor.delete("/api/v1/page").json["error"]["code"] == "METHOD_NOT_ALLOWED"


def test_browsers_of_other_origins_are_let_in_only_when_named(small: App, visitor: FlaskClient) -> None:
    small.config["CORS_ORIGINS"] = ["https://app.example"]
    named = visitor.get("/api/v1/page", headers={"Origin": "https://app.example"})
    other = visitor.get("/api/v1/page", headers={"Origin": "https://evil.example"})
    assert named.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert "Access-Control-Allow-Origin" not in other.headers
    assert "Origin" in other.headers["Vary"]


def test_a_method_that_is_not_answered_names_those_that_are(visitor: FlaskClient) -> None:
    assert "GET" in visitor.delete("/api/v1/page").headers["Allow"]


def test_a_text_of_nothing_but_space_is_refused(visitor: FlaskClient) -> None:
    assert visitor.post("/api/v1/insert", json={"id": 1, "text": "   "}).status_code == 422
