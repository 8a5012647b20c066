"""The reference and the explorer in the browser."""

from flask import Flask

from saas_api.services import services
from tests.browser.window import Window
from tests.support.services import change_service, create_service

OPENAPI = {
    "openapi": "3.0.3",
    "info": {"title": "Lookups", "version": "1"},
    "components": {"securitySchemes": {"customerKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}},
    "security": [{"customerKey": []}],
    "paths": {"/v1/lookups": {"get": {"responses": {"200": {"description": "OK"}}}}},
}


def test_key_that_is_typed_once_authorizes_every_document_and_is_stored_nowhere(app: Flask, window: Window) -> None:
    create_service(app)
    change_service(app, services.set_openapi, "lookups", OPENAPI)
    window.open("/docs/explorer")
    page = window.page
    page.get_by_role("button", name="Authorize").first.click()
    page.locator("#api_key_value").fill("sk_live_key")
    page.locator("form:has(#api_key_value)").get_by_label("Apply credentials").click()
    page.get_by_role("button", name="Close").first.click()
    page.get_by_role("link", name="lookups").click()
    page.get_by_text("/v1/lookups").wait_for()
    page.get_by_role("button", name="Authorize").first.click()
    page.get_by_label("Remove authorization").first.wait_for()
    assert page.url.endswith("/docs/explorer/lookups")
    assert page.evaluate("[sessionStorage.length, localStorage.length]") == [0, 0]


def test_search_answers_as_one_types_and_a_language_is_chosen_once(window: Window) -> None:
    page = window.open("/docs/reference/messages")
    page.get_by_text("JavaScript", exact=True).first.click()
    page.get_by_role("searchbox").press_sequentially("idempot")
    page.locator("#found").get_by_role("link", name="Idempotency", exact=True).click()
    window.sees("await fetch(")
    assert page.get_by_text("curl http").filter(visible=True).count() == 0
    page.get_by_role("button", name="Copy").first.click()
    window.sees("Copied")
    window.inspect()


def test_texts_of_a_document_run_nothing(app: Flask, window: Window) -> None:
    script = "document.title = 'run'"
    hostile = f'<script>{script}</script><img src="data:," onerror="{script}"> [a link](javascript:{script}) the end'
    create_service(app)
    change_service(
        app, services.set_openapi, "lookups", {**OPENAPI, "info": {**OPENAPI["info"], "description": hostile}}
    )
    page = window.open("/docs/explorer/lookups")
    page.locator("#swagger-ui").get_by_text("the end").wait_for()
    assert page.title().startswith("API explorer")
    assert page.locator("#swagger-ui script, #swagger-ui [onerror], #swagger-ui [href^=javascript]").count() == 0
    assert all("Content Security Policy" in problem for problem in window.problems)
    window.problems.clear()  # Swagger UI parses the text before it cleans it, and the policy blocks what it would run
