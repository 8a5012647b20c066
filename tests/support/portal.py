"""Portal sessions of tests: links as services make them, and browsers that open them."""

from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from saas_api.services import services
from tests.support.accounts import Headers, User
from tests.support.pages import Browser
from tests.support.services import change_service, create_service, service_headers

PATH = "/api/v1/portal-sessions"
ORIGIN = "https://app.customer.example"
EVERY_SCOPE = ["invoices:pay", "keys:write", "usage:read", "webhooks:write"]


@pytest.fixture
def maker(app: Flask) -> Headers:
    """Headers of the service `lookups`, whose origin is ORIGIN."""
    headers = service_headers(create_service(app))
    change_service(app, services.set_portal_origins, "lookups", [ORIGIN])
    return headers


def create_link(client: FlaskClient, headers: Headers, organization: str, *scopes: str, **body: Any) -> str:
    """Make a link and return its path with its query.

    scopes: every scope by default
    """
    body = {"organization": organization, "scopes": list(scopes) or EVERY_SCOPE, **body}
    response = client.post(PATH, json=body, headers=headers)
    assert response.status_code == 201, response.json
    url = urlsplit(response.json["data"]["url"])
    return f"{url.path}?{url.query}"


def open_portal(app: Flask, headers: Headers, user: User, *scopes: str, **body: Any) -> Browser:
    """A browser that has opened a link to the portal of a user's organization."""
    browser = Browser(app)
    browser.client = type(user.client)(app, app.response_class)  # that of payments gives each request a context
    response = browser.open(create_link(user.client, headers, user.organization_id, *scopes, **body))
    assert response.status_code == 303, response.text
    return browser


def embedders(response: TestResponse) -> str:
    """Who may embed a page: the sources of `frame-ancestors`."""
    return str(response.headers["Content-Security-Policy"]).partition("frame-ancestors ")[2]
