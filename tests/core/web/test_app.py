"""One transaction for each request: committed on success, rolled back on errors, callbacks after the commit."""

import gzip
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
from saas_api.core.web.endpoint import ViewResult, endpoint

callbacks: list[str] = []


class NameTaken(Conflict):
    code, message, constraint = "TWIN_TAKEN", "There is one already.", "probe_twin_key"


class RowIn(StrictSchema):
    id = StrictInteger(required=True)
    twin = StrictInteger(load_default=1)
    text = Text(maximum=5)


ROW_IN = RowIn()
INSERT = sa.text("INSERT INTO probe VALUES (:id, :twin)")


def _insert(body: dict[str, Any]) -> None:
    engine.session().execute(INSERT, {"id": body["id"], "twin": body["twin"]})
    engine.after_commit(engine.session(), lambda: callbacks.append("called"))


@public_view
@endpoint(operation_id="insert", tag="probe", body=ROW_IN, status=201)
def insert(body: dict[str, Any]) -> Any:
    _insert(body)
    return ViewResult({"id": body["id"]}, message="Made.")


@public_view
@endpoint(operation_id="insert_then_reject", tag="probe", body=ROW_IN)
def insert_then_reject(body: dict[str, Any]) -> Any:
    _insert(body)
    raise ValidationFailed.at_field("id", "no")


@public_view
@endpoint(operation_id="insert_then_crash", tag="probe", body=ROW_IN)
def insert_then_crash(body: dict[str, Any]) -> Any:
    _insert(body)
    raise RuntimeError("a secret of ours")


@public_view
def insert_then_return_422() -> Response:
    _insert({"id": 1, "twin": 1})
    return Response("no", 422)


@public_view
@endpoint(operation_id="insert_with_failing_callback", tag="probe", body=ROW_IN)
def insert_with_failing_callback(body: dict[str, Any]) -> Any:
    _insert(body)
    engine.after_commit(engine.session(), lambda: 1 // 0)
    return {}


@public_view
@endpoint(operation_id="page", tag="probe", query=PageQuery())
def page(query: dict[str, Any]) -> Any:
    return query


VIEWS = (insert, insert_then_reject, insert_then_crash, insert_with_failing_callback)


@pytest.fixture
def core_app(config: dict[str, Any], app: Flask) -> Iterator[App]:
    """An application with the views of this file only, on the same database, with a table of its own."""
    owner = sa.create_engine(config["DATABASE_OWNER_URL"])
    with owner.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS probe"))
        connection.execute(
            sa.text("CREATE TABLE probe (id int PRIMARY KEY, twin int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        )
        connection.execute(sa.text("GRANT ALL ON probe TO saas_tenant"))
    created = App("core_app")
    created.config.from_mapping(app.config)
    created.config["SQLALCHEMY_ENGINE_OPTIONS"] = engine.engine_options()
    db.init_app(created)
    http.init_app(created)
    web_app.init_app(created)
    for view in VIEWS:
        created.add_url_rule(f"/api/v1/{view.__name__}", view_func=view, methods=["POST"])
    created.add_url_rule("/api/v1/return_422", view_func=insert_then_return_422, methods=["POST"])
    created.add_url_rule("/api/v1/page", view_func=page)
    callbacks.clear()
    yield created
    with created.app_context():
        db.engine.dispose()
    with owner.begin() as connection:
        connection.execute(sa.text("DROP TABLE probe"))
    owner.dispose()


@pytest.fixture
def core_client(core_app: App) -> FlaskClient:
    return core_app.test_client()


def rows(core_app: App) -> int:
    with core_app.app_context():
        return int(engine.execute_batch([("SELECT count(*) FROM probe", {})])[0][0])


def test_success_is_committed_before_after_commit_callbacks(core_app: App, core_client: FlaskClient) -> None:
    response = core_client.post("/api/v1/insert", json={"id": 1})
    assert (response.status_code, response.json) == (201, {"success": True, "data": {"id": 1}, "message": "Made."})
    assert (rows(core_app), callbacks) == (1, ["called"])


@pytest.mark.parametrize(
    ("path", "status"), [("insert_then_reject", 422), ("insert_then_crash", 500), ("return_422", 422)]
)
def test_failed_request_is_rolled_back_without_callbacks(
    core_app: App, core_client: FlaskClient, path: str, status: int
) -> None:
    assert core_client.post(f"/api/v1/{path}", json={"id": 1}).status_code == status
    assert (rows(core_app), callbacks) == (0, [])


def test_constraint_violated_at_commit_is_a_conflict_without_callbacks(core_app: App, core_client: FlaskClient) -> None:
    core_client.post("/api/v1/insert", json={"id": 1, "twin": 7})
    callbacks.clear()
    response = core_client.post("/api/v1/insert", json={"id": 2, "twin": 7})
    assert (response.status_code, response.json["error"]["code"]) == (409, "TWIN_TAKEN")
    assert (rows(core_app), callbacks) == (1, [])


def test_crash_reveals_no_details(core_client: FlaskClient) -> None:
    response = core_client.post("/api/v1/insert_then_crash", json={"id": 1})
    assert response.json["error"]["code"] == "INTERNAL_ERROR"
    assert "secret" not in response.text


def test_failing_after_commit_callback_does_not_fail_the_request(core_app: App, core_client: FlaskClient) -> None:
    assert core_client.post("/api/v1/insert_with_failing_callback", json={"id": 1}).status_code == 200
    assert rows(core_app) == 1


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
def test_unreadable_body_has_an_error_code(
    core_client: FlaskClient, body: bytes, mimetype: str, status: int, code: str
) -> None:
    response = core_client.post("/api/v1/insert", data=body, content_type=mimetype)
    assert (response.status_code, response.json["error"]["code"]) == (status, code)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", None])
def test_empty_body_is_an_absent_one(core_client: FlaskClient, content_type: str | None) -> None:
    """A12: an empty body with a content type was 400 where no body is needed."""
    response = core_client.post("/api/v1/insert", data=b"", content_type=content_type)
    assert (response.status_code, response.json["error"]["code"]) == (422, "VALIDATION_ERROR")


def test_compressed_body_gets_415_with_the_encodings_that_are_taken(core_client: FlaskClient) -> None:
    """A14: gzip was 400, "not valid JSON"."""
    options: dict[str, Any] = {"data": gzip.compress(b'{"id": 1}'), "content_type": "application/json"}
    for encoding in ("gzip", "br", "gzip, identity"):
        response = core_client.post("/api/v1/insert", headers={"Content-Encoding": encoding}, **options)
        assert (response.status_code, response.json["error"]["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
        assert response.headers["Accept-Encoding"] == "identity"
    plain = core_client.post("/api/v1/insert", json={"id": 1}, headers={"Content-Encoding": "Identity"})
    assert plain.status_code == 201


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
def test_all_invalid_fields_of_a_body_are_reported_at_once(
    core_client: FlaskClient, body: dict[str, Any], fields: list[str]
) -> None:
    response = core_client.post("/api/v1/insert", json=body)
    assert response.status_code == 422
    assert sorted(problem["field"] for problem in response.json["error"]["details"]["fields"]) == fields


@pytest.mark.parametrize("limit", ["0", "101", "x", "1.5", "-1", "٣", "9999999999"])
def test_invalid_limit_is_rejected(core_client: FlaskClient, limit: str) -> None:
    assert core_client.get("/api/v1/page", query_string={"limit": limit}).status_code == 422


def test_unknown_query_parameter_is_rejected(core_client: FlaskClient) -> None:
    assert core_client.get("/api/v1/page?limt=5").status_code == 422


def test_every_response_has_a_request_id_and_security_headers(core_client: FlaskClient) -> None:
    for response in (
        core_client.get("/api/v1/page"),
        core_client.get("/api/v1/nothing"),
        core_client.delete("/api/v1/page"),
    ):
        assert response.headers["X-Request-Id"].startswith("req_")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert response.headers["Cache-Control"] == "no-store"


def test_valid_request_id_of_the_client_is_used(core_client: FlaskClient) -> None:
    accepted = core_client.get("/api/v1/page", headers={"X-Request-Id": "client-chosen-1"})
    replaced = core_client.get("/api/v1/page", headers={"X-Request-Id": "no spaces please"})
    assert accepted.headers["X-Request-Id"] == "client-chosen-1"
    assert replaced.headers["X-Request-Id"].startswith("req_")


def test_missing_path_and_method_have_the_error_envelope(core_client: FlaskClient) -> None:
    assert core_client.get("/api/v1/nothing").json["error"]["code"] == "NOT_FOUND"
    assert core_client.delete("/api/v1/page").json["error"]["code"] == "METHOD_NOT_ALLOWED"


def test_cors_headers_are_sent_to_configured_origins_only(core_app: App, core_client: FlaskClient) -> None:
    core_app.config["CORS_ORIGINS"] = ["https://app.example"]
    named = core_client.get("/api/v1/page", headers={"Origin": "https://app.example"})
    other = core_client.get("/api/v1/page", headers={"Origin": "https://evil.example"})
    assert named.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert "Access-Control-Allow-Origin" not in other.headers
    assert "Origin" in other.headers["Vary"]


def test_405_names_the_allowed_methods(core_client: FlaskClient) -> None:
    assert "GET" in core_client.delete("/api/v1/page").headers["Allow"]


def test_text_of_whitespace_is_rejected(core_client: FlaskClient) -> None:
    assert core_client.post("/api/v1/insert", json={"id": 1, "text": "   "}).status_code == 422
