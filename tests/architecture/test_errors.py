"""Every error of the API has its own code and a paragraph in docs/errors.md."""

from flask import Flask

from saas_api.cli.commands import documents
from saas_api.core.errors import ApiError
from saas_api.docs import openapi
from tests.architecture.source import ROOT


def test_code_and_status_belong_to_one_error_and_its_subclasses(app: Flask) -> None:
    owners: dict[tuple[int, str], type[ApiError]] = {}
    for kind in openapi.list_error_types():
        owner = owners.setdefault((kind.status, kind.code), kind)
        assert issubclass(kind, owner), (kind, owner)


def test_code_is_upper_snake_case_and_message_a_sentence(app: Flask) -> None:
    for kind in openapi.list_error_types():
        assert kind.code.replace("_", "").isupper(), kind
        assert kind.message[0].isupper(), kind
        assert kind.message.endswith("."), kind


def test_every_error_has_a_docstring(app: Flask) -> None:
    assert not [kind for kind in openapi.list_error_types() if not (kind.__doc__ or "").strip()]


def test_committed_error_page_is_current(app: Flask) -> None:
    assert (ROOT / "docs" / "errors.md").read_text(encoding="utf-8") == documents.errors_page()
