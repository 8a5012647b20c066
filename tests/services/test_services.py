"""Services: names, scopes, rotation, revocation, and what the audit log says of it."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.exc import IntegrityError

from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.errors import ValidationFailed
from saas_api.core.web import http
from saas_api.services import services
from saas_api.services.services import ServiceNameTaken, ServiceNotFound, ServiceRevoked, ServiceRotationInProgress
from tests.support.accounts import User
from tests.support.services import PURPOSE, change_service, create_service

DOCUMENT = {"openapi": "3.1.0", "info": {"title": "Lookups", "version": "1"}, "paths": {}}


def problems(error: pytest.ExceptionInfo[ValidationFailed]) -> list[dict[str, str]]:
    fields: list[dict[str, str]] = error.value.details["fields"]
    return fields


def rotate(app: Flask, grace: int) -> Any:
    return change_service(app, services.rotate_token, "lookups", grace)


@pytest.mark.parametrize("name", ["lookups", "a", "l0_k-ups", "a" * 40])
def test_name_is_a_short_word(app: Flask, name: str) -> None:
    create_service(app, name)


@pytest.mark.parametrize("name", ["", "Lookups", "1st", "a" * 41, "two words", "a.b", "é"])
def test_other_name_is_refused(app: Flask, name: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        create_service(app, name)
    assert [problem["field"] for problem in problems(refused)] == ["name"]


@pytest.mark.parametrize("name", ["messages", "keys", "billing", "services", "gate"])
def test_name_of_a_part_of_the_application_is_taken(app: Flask, name: str) -> None:
    with pytest.raises(ServiceNameTaken) as taken:
        create_service(app, name)
    assert (taken.value.status, taken.value.code) == (409, "SERVICE_NAME_TAKEN")


def test_name_of_a_revoked_service_stays_taken(app: Flask) -> None:
    create_service(app)
    change_service(app, services.revoke_service, "lookups")
    with pytest.raises(ServiceNameTaken):
        create_service(app)


def test_of_two_creations_at_once_one_finds_the_name_taken(app: Flask) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(2)

    def create() -> None:
        start.wait()
        try:
            create_service(app)
            outcomes.append("created")
        except IntegrityError as error:
            outcomes.append(getattr(http.find_constraint_error(error), "code", ""))
        except ServiceNameTaken as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=create) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["SERVICE_NAME_TAKEN", "created"]


def test_second_rotation_waits_for_the_end_of_the_first(app: Flask) -> None:
    create_service(app)
    rotate(app, 60)
    with pytest.raises(ServiceRotationInProgress) as refused:
        rotate(app, 60)
    assert (refused.value.status, refused.value.code) == (409, "SERVICE_ROTATION_IN_PROGRESS")
    assert rotate(app, 0).token


@pytest.mark.parametrize("grace", [-1, 604_801])
def test_grace_has_bounds(app: Flask, grace: int) -> None:
    create_service(app)
    with pytest.raises(ValidationFailed):
        rotate(app, grace)


def test_unknown_service_is_not_found(app: Flask) -> None:
    for change, arguments in (
        (services.rotate_token, (0,)),
        (services.revoke_service, ()),
        (services.set_scopes, ([],)),
    ):
        with pytest.raises(ServiceNotFound) as missing:
            change_service(app, change, "nobody", *arguments)
        assert (missing.value.status, missing.value.code) == (404, "SERVICE_NOT_FOUND")


def test_revoked_service_takes_no_changes(app: Flask) -> None:
    create_service(app)
    revoked = change_service(app, services.revoke_service, "lookups")
    assert change_service(app, services.revoke_service, "lookups").revoked_at == revoked.revoked_at
    for change, argument in ((services.rotate_token, 0), (services.set_scopes, []), (services.set_openapi, DOCUMENT)):
        with pytest.raises(ServiceRevoked) as refused:
            change_service(app, change, "lookups", argument)
        assert (refused.value.status, refused.value.code) == (409, "SERVICE_REVOKED")


def test_organization_reads_the_scopes_of_every_service(app: Flask, alice: User) -> None:
    create_service(app, "lookups", scopes=["lookups:write", "lists:export", "lists:export"])
    create_service(app, "archive")
    create_service(app, "gone")
    change_service(app, services.revoke_service, "gone")
    with app.app_context(), tenancy.tenant_session(ids.parse_id("org", alice.organization_id)) as session:
        assert services.list_scopes(session) == {
            "archive": ["archive:read", "archive:write"],
            "lookups": ["lookups:read", "lookups:write", "lists:export"],
        }


@pytest.mark.parametrize(
    "scope", ["lookups", "Lookups:read", "lookups:read:all", "messages:write", "keys:read", ":read"]
)
def test_scope_of_another_form_or_of_the_application_is_refused(app: Flask, scope: str) -> None:
    create_service(app)
    with pytest.raises(ValidationFailed) as refused:
        change_service(app, services.set_scopes, "lookups", ["lookups:export", scope])
    assert [problem["reason"].startswith(f"{scope}: ") for problem in problems(refused)] == [True]


@pytest.mark.parametrize(
    "document", [{}, {"openapi": "2.0"}, {**DOCUMENT, "paths": []}, {"swagger": "2.0", "paths": {}}]
)
def test_other_document_than_openapi_3_is_refused(app: Flask, document: dict[str, Any]) -> None:
    create_service(app)
    assert change_service(app, services.set_openapi, "lookups", DOCUMENT).openapi == DOCUMENT
    with pytest.raises(ValidationFailed):
        change_service(app, services.set_openapi, "lookups", document)


def test_every_change_is_audited_with_its_reason(app: Flask) -> None:
    token = create_service(app)
    rotate(app, 60)
    change_service(app, services.set_scopes, "lookups", ["lookups:export"])
    change_service(app, services.set_openapi, "lookups", DOCUMENT)
    change_service(app, services.revoke_service, "lookups")
    change_service(app, services.revoke_service, "lookups")
    events = audit_events(app)
    assert [event.action for event in events] == [
        "service.created",
        "service.rotated",
        "service.changed",
        "service.openapi_changed",
        "service.revoked",
    ]
    assert {(event.data["name"], event.data["reason"], event.organization_id) for event in events} == {
        ("lookups", "a test", None)
    }
    assert token not in str([event.data for event in events])


def audit_events(app: Flask) -> Sequence[Any]:
    statement = sa.text(
        "SELECT action, data, organization_id FROM audit_events WHERE action LIKE 'service.%' ORDER BY id"
    )
    with app.app_context(), tenancy.system_session(PURPOSE) as session:
        return session.execute(statement).all()


def test_portal_origins_are_origins(app: Flask) -> None:
    create_service(app)
    listed = ["https://app.example.com", "https://b.example:8443", "http://localhost:3000"]
    assert change_service(app, services.set_portal_origins, "lookups", listed).portal_origins == sorted(listed)
    for wrong in (
        *(
            "https://app.example.com/",
            "http://app.example.com",
            "https://*.example.com",
            "https://a b",
            "app.example.com",
        ),
        *("https://App.example.com", "https://a.example;script-src *", "https://a.example 'self'", "null", "*"),
    ):
        with pytest.raises(ValidationFailed):
            change_service(app, services.set_portal_origins, "lookups", [wrong])
