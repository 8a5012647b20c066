"""The documents of services beside ours, under a policy that lets them call their own servers only."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.services import services
from tests.support.services import change_service, create_service

PAGE, DOCUMENT = "/docs/explorer/lookups", "/docs/explorer/lookups/openapi.json"
OPENAPI = {"openapi": "3.1.0", "info": {"title": "Lookups", "version": "1"}, "paths": {}}


def set_openapi(app: Flask, **fields: Any) -> None:
    change_service(app, services.set_openapi, "lookups", {**OPENAPI, **fields})


@pytest.fixture(autouse=True)
def lookups(app: Flask) -> None:
    create_service(app)


def test_reference_shows_only_services_with_a_document(app: Flask, client: FlaskClient) -> None:
    assert PAGE not in client.get("/docs/explorer").text
    assert [client.get(path).status_code for path in (PAGE, DOCUMENT)] == [404, 404]
    set_openapi(app)
    assert f'href="{PAGE}"' in client.get("/docs/explorer").text
    assert f'data-url="{DOCUMENT}"' in client.get(PAGE).text
    assert client.get(DOCUMENT).json == OPENAPI


@pytest.mark.parametrize("end", [(services.set_openapi, None), (services.revoke_service,)])
def test_document_that_is_removed_or_of_a_revoked_service_is_gone(
    app: Flask, client: FlaskClient, end: tuple[Any, ...]
) -> None:
    set_openapi(app)
    change_service(app, end[0], "lookups", *end[1:])
    assert PAGE not in client.get("/docs/explorer").text
    assert [client.get(path).status_code for path in (PAGE, DOCUMENT)] == [404, 404]


@pytest.mark.parametrize(
    ("servers", "connect"),
    [
        ([], "'self'"),
        (
            [{"url": "https://api.example.com/v1"}, {"url": "http://127.0.0.1:9000"}],
            "'self' http://127.0.0.1:9000 https://api.example.com",
        ),
        ([{"url": "/v1"}, {"url": "https://a.example; script-src *"}, {"url": "https://*"}, {"url": 1}, 2], "'self'"),
        ("https://api.example.com", "'self'"),
    ],
)
def test_page_may_call_the_servers_of_the_documents(
    app: Flask, client: FlaskClient, servers: Any, connect: str
) -> None:
    set_openapi(app, servers=servers)
    for page in (PAGE, "/docs/explorer"):  # either shows every document
        policy = client.get(page).headers["Content-Security-Policy"]
        assert f"connect-src {connect};" in policy
        assert "script-src 'self';" in policy
