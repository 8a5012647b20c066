"""The search for requests by ID in the operator console."""

from flask import Flask
from flask.testing import FlaskClient

from tests.support.accounts import User
from tests.support.console import sign_in_operator
from tests.support.pages import Browser
from tests.support.request_log import record_request

PAGE = "/admin/requests"


def test_operator_finds_a_request_of_any_organization_by_its_id(
    app: Flask, client: FlaskClient, alice: User, carol: User
) -> None:
    request_id = record_request(alice, 422, error_code="VALIDATION_ERROR", error_message="to: Required.")
    operator = sign_in_operator(app, client, "support")
    page = operator.open(f"{PAGE}?request_id={request_id}").text
    for text in ("Acme", "VALIDATION_ERROR", "to: Required.", "203.0.113.9"):
        assert text in page
    record_request(carol, 404, request_id=request_id)
    assert "Carol &amp; Co" in operator.open(f"{PAGE}?request_id={request_id}").text
    assert "No request with this ID" in operator.open(f"{PAGE}?request_id=req_nothing").text


def test_search_is_of_operators_and_is_recorded(app: Flask, client: FlaskClient, alice: User) -> None:
    assert Browser(app, alice).open(PAGE).status_code == 404
    operator = sign_in_operator(app, client, "support")
    assert operator.open(PAGE).status_code == 200
    assert operator.open(f"{PAGE}?request_id={'x' * 65}").status_code == 422
    operator.open(f"{PAGE}?request_id=req_looked_up")
    assert "req_looked_up" in operator.open("/admin/audit").text
