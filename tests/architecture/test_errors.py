"""Every error a client may see has a code of its own and a paragraph in the docs."""

import ast

from flask import Flask

from saas_api.cli.commands import documents
from saas_api.core.errors import ApiError
from saas_api.docs import openapi
from tests.architecture.source import PACKAGE, ROOMS, ROOT, sources, tree


def test_a_code_means_one_thing_under_a_status_or_special_cases_of_it(app: Flask) -> None:
    owners: dict[tuple[int, str], type[ApiError]] = {}
    for kind in openapi.list_error_types():
        owner = owners.setdefault((kind.status, kind.code), kind)
        assert issubclass(kind, owner), (kind, owner)


def test_a_code_is_upper_snake_and_a_message_is_a_sentence(app: Flask) -> None:
    for kind in openapi.list_error_types():
        assert kind.code.replace("_", "").isupper(), kind
        assert kind.message[0].isupper(), kind
        assert kind.message.endswith("."), kind


def test_every_error_says_when_it_occurs(app: Flask) -> None:
    assert not [kind for kind in openapi.list_error_types() if not (kind.__doc__ or "").strip()]


def test_the_page_about_errors_is_current(app: Flask) -> None:
    assert (ROOT / "docs" / "errors.md").read_text(encoding="utf-8") == documents.errors_page()


def test_errors_of_a_room_stand_in_its_service(app: Flask) -> None:
    kinds = {kind.__name__ for kind in openapi.list_error_types()}
    for room in ROOMS:
        for path in sources(PACKAGE / room):
            defined = {node.name for node in tree(path).body if isinstance(node, ast.ClassDef) and node.name in kinds}
            assert not defined or "service" in str(path.relative_to(PACKAGE / room)), (path, defined)
