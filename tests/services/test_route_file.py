"""Routes of forward authentication: what their file may say, and which route a request gets."""

from typing import Any

import pytest

from saas_api.core.document_reader import InvalidDocument
from saas_api.services import route_file
from saas_api.services.route_file import Route, UnsafePath

LOOKUPS = Route("POST", "/v1/lookups", "lookups:write", "lookups")
LOOKUP = Route("GET", "/v1/lookups/{id}")
FILES = Route("*", "/v1/files/{path*}")
REST = Route("*", "/*")
TABLE = (LOOKUPS, LOOKUP, FILES)


def pattern_of(method: str, path: str, routes: Any = TABLE) -> str | None:
    route = route_file.match(routes, method, path)
    return route.pattern if route else None


def problems_of(document: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidDocument) as refused:
        route_file.load_routes(document)
    return refused.value.problems


@pytest.mark.parametrize(
    ("method", "path", "pattern"),
    [
        ("POST", "/v1/lookups", "/v1/lookups"),
        ("POST", "/v1/lookups?number=%2F..", "/v1/lookups"),
        ("GET", "/v1/lookups/l1", "/v1/lookups/{id}"),
        ("HEAD", "/v1/lookups/l1", "/v1/lookups/{id}"),
        ("GET", "/v1/lookups/%C3%A9", "/v1/lookups/{id}"),
        ("DELETE", "/v1/files/a/b/c", "/v1/files/{path*}"),
        ("DELETE", "/v1/files", "/v1/files/{path*}"),
        ("GET", "/v1/lookups", None),
        ("GET", "/v1/lookups/a/b", None),
        ("GET", "/v1/filesystem", None),
        ("GET", "/", None),
        ("GET", "/v1", None),
    ],
)
def test_request_gets_the_route_of_its_method_and_path(method: str, path: str, pattern: str | None) -> None:
    assert pattern_of(method, path) == pattern


def test_first_route_that_matches_counts() -> None:
    me = Route("GET", "/v1/users/me", "users:self")
    user = Route("GET", "/v1/users/{id}", "users:read")
    assert route_file.match((me, user), "GET", "/v1/users/me") is me
    assert route_file.match((user, me), "GET", "/v1/users/me") is user


@pytest.mark.parametrize(
    "path",
    [
        "/v1/lookups/",
        "/V1/Lookups",
        "/v1/%6Cookups",
        "/v1/%6cookups",
        "/%76%31/lookups",
        "/v1/lookups/?",
        "/v1/LOOKUPS/?a",
    ],
)
def test_other_spelling_of_a_path_gets_its_route(path: str) -> None:
    """Otherwise a catch-all route would let the call pass uncounted."""
    assert pattern_of("POST", path, (LOOKUPS, REST)) == "/v1/lookups"
    assert pattern_of("post", path, (LOOKUPS, REST)) == "/v1/lookups"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/..%2Flookups",
        "/v1%2flookups",
        "/v1/files/../lookups",
        "/v1/files/%2e%2e/lookups",
        "/v1/files/.%2E/lookups",
        "/v1/./lookups",
        "/v1/%2e/lookups",
        "/v1//lookups",
        "//v1/lookups",
        "/v1/lookups//",
        "/v1/files\\..\\lookups",
        "/v1/files%5C..%5clookups",
        "/v1/lookups;v=1",
        "/v1;a/lookups",
        "/v1/lookups%3Bv=1",
        "/v1/lookups%00",
        "/v1/lookups%0a",
        "/v1/lookups%7F",
        "/v1/lookups\n",
        "/v1/look ups",
        "/v1/lookups#a",
        "/v1/%252e%252e/lookups",
        "/v1/%25%32%46lookups",
        "/v1/lookups%",
        "/v1/lookups%2",
        "/v1/lookups%zz",
        "/v1/é",
        "/v1%C0%AFlookups",
        "/v1/%FF",
        "v1/lookups",
        "",
        "*",
        "http://api.example/v1/lookups",
        "?/v1/lookups",
        "/" + "a" * 8000,
    ],
)
def test_path_that_programs_understand_differently_matches_nothing(path: str) -> None:
    with pytest.raises(UnsafePath) as refused:
        route_file.match((LOOKUPS, REST), "POST", path)
    assert (refused.value.status, refused.value.code) == (404, "UNSAFE_PATH")


def test_document_is_read_and_written_again() -> None:
    document = {
        "default": "allow",
        "routes": [
            {"method": "POST", "path": "/v1/lookups", "permission": "lookups:write", "meter": "lookups"},
            {"method": "PUT", "path": "/v1/{id}/size", "meter": "storage", "quantity": "2.5"},
            {"method": "*", "path": "/v1/upload/*", "meter": "bytes", "quantity_header": "Content-Length"},
            {"method": "GET", "path": "/v1/reports", "meter": "lookups", "quantity": 100},
        ],
    }
    table = route_file.load_routes(document)
    assert table.is_open
    assert table.routes[3].quantity == 100
    written = route_file.to_document(table)
    assert written["routes"][3].pop("quantity") == "100"
    assert document["routes"][3].pop("quantity") == 100
    assert written == document
    assert route_file.load_routes(written).routes[:3] == table.routes[:3]


def test_list_of_routes_denies_what_none_matches() -> None:
    table = route_file.load_routes([{"method": "*", "path": "/"}])
    assert (len(table.routes), table.is_open) == (1, False)


def test_every_problem_is_reported_with_its_path() -> None:
    document = {
        "default": "maybe",
        "extra": 1,
        "routes": [
            {"method": "post", "path": "v1", "permission": "write", "quantity": 1},
            {"path": "/a//b", "meter": "Lookups", "quantity": "0", "quantity_header": "X Y"},
            {"method": "GET", "path": "/a/{b}c"},
            {"method": "GET", "path": "/*/a"},
            {"method": "GET", "path": "/a/%2e%2e"},
            "GET /a",
            {"method": "GET", "path": "/a", "meter": "m", "quantity": 1.5},
            {"method": "GET", "path": "/a", "meter": "m", "quantity": 10**12 + 1},
        ],
    }
    assert [path for path, _ in problems_of(document)] == [
        "extra",
        "default",
        "routes.0.meter",
        "routes.0.method",
        "routes.0.path",
        "routes.0.permission",
        "routes.1.method",
        "routes.1.quantity",
        "routes.1.quantity_header",
        "routes.1.path",
        "routes.1.meter",
        "routes.1.quantity_header",
        "routes.2.path",
        "routes.3.path",
        "routes.4.path",
        "routes.5",
        "routes.6.quantity",
        "routes.7.quantity",
    ]


@pytest.mark.parametrize("document", [None, 1, "routes", {}, {"routes": {}}, {"routes": [{}] * 501}])
def test_other_document_is_refused(document: Any) -> None:
    assert problems_of(document)
