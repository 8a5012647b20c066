"""The OpenAPI document and the explorer: complete, offline, and under the strict content security policy."""

import gc
import re

import pytest
from flask.testing import FlaskClient
from openapi_spec_validator import validate

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def test_document_is_valid_openapi_3_0_3(client: FlaskClient) -> None:
    response = client.get("/api/v1/openapi.json")
    assert response.status_code == 200
    assert response.json["openapi"] == "3.0.3"
    validate(response.json)


def test_send_operation_has_body_response_errors_and_security(client: FlaskClient) -> None:
    document = client.get("/api/v1/openapi.json").json
    operation = document["paths"]["/api/v1/messages/send"]["post"]
    assert operation["security"] == [{"apiKey": []}]
    shape = resolve(document, operation["responses"]["202"]["content"]["application/json"]["schema"])
    assert set(shape["properties"]) == {"success", "data", "message"}
    assert "message_id" in resolve(document, shape["properties"]["data"])["properties"]
    body = resolve(document, operation["requestBody"]["content"]["application/json"]["schema"])
    assert {"to", "message", "type"} <= set(body["properties"])
    assert {"400", "401", "402", "403", "413", "415", "422", "429", "503"} <= set(operation["responses"])


def test_id_in_a_path_is_a_parameter_with_a_404(client: FlaskClient) -> None:
    operation = client.get("/api/v1/openapi.json").json["paths"]["/api/v1/messages/{message_id}"]["get"]
    (parameter,) = operation["parameters"]
    assert (parameter["name"], parameter["in"], parameter["required"]) == ("message_id", "path", True)
    assert parameter["schema"]["example"].startswith("msg_")
    assert "404" in operation["responses"]


def test_operation_ids_are_unique_readable_and_without_a_counter(client: FlaskClient) -> None:
    paths = client.get("/api/v1/openapi.json").json["paths"]
    names = [operation["operationId"] for methods in paths.values() for operation in methods.values()]
    assert len(names) == len(set(names))
    assert not [name for name in names if not re.fullmatch(r"[a-z]+(_[a-z]+)*", name)]


def test_both_urls_of_a_view_have_their_own_operation_id(client: FlaskClient) -> None:
    paths = client.get("/api/v1/openapi.json").json["paths"]
    assert paths["/api/v1/keys/{key_id}"]["delete"]["operationId"] == "revoke_key"
    assert paths["/api/v1/api-keys/{key_id}"]["delete"]["operationId"] == "revoke_api_key"


def test_component_names_are_bare_class_names_without_a_counter(client: FlaskClient) -> None:
    names = client.get("/api/v1/openapi.json").json["components"]["schemas"]
    assert not [name for name in names if not re.fullmatch(r"[A-Za-z]+", name)]


def test_landing_page_links_to_the_documentation(client: FlaskClient) -> None:
    assert 'href="/docs/"' in client.get("/").text
    assert client.get("/docs", follow_redirects=True).status_code == 200


def test_portal_leads_to_the_explorer(client: FlaskClient) -> None:
    assert 'href="/docs/explorer"' in client.get("/docs/").text


def test_explorer_has_the_strict_content_security_policy(client: FlaskClient) -> None:
    page = client.get("/docs/explorer")
    assert page.headers["Content-Security-Policy"] == POLICY
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=", page.text)


def test_explorer_loads_only_existing_local_files(client: FlaskClient) -> None:
    page = client.get("/docs/explorer").text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(addresses) >= 6
    for address in addresses:
        assert address.startswith("/")
        assert not address.startswith("//")
        with client.get(address, follow_redirects=True) as response:
            assert response.status_code == 200, address


def test_swagger_ui_is_current_and_ignores_the_query_of_its_address(client: FlaskClient) -> None:
    """Small: Swagger UI 3.14.1 with an old DOMPurify loaded the document that `?url=` names."""
    page = client.get("/docs/explorer?url=https://evil.example/openapi.json").text
    assert "evil.example" not in page
    [bundle] = re.findall(r'src="([^"]+swagger-ui-bundle[^"]+)"', page)
    purifier = re.search(r'DOMPurify\.version="(\d+)\.(\d+)', client.get(bundle).text)
    assert purifier
    assert (int(purifier[1]), int(purifier[2])) >= (3, 4)
    with client.get("/docs/assets/apidocs.js") as script:
        assert "queryConfigEnabled: false" in script.text


@pytest.mark.parametrize("path", ["/docs/static/swagger-ui-bundle.js", "/docs/assets/swagger-ui-bundle.js"])
def test_swagger_ui_of_flasgger_is_not_served(client: FlaskClient, path: str) -> None:
    """Small: the old one is still in flasgger's wheel."""
    assert client.get(path).status_code == 404


def test_files_of_the_reference_are_revalidated_and_pages_not_stored(client: FlaskClient) -> None:
    with client.get("/docs/assets/apidocs.css") as file:
        assert file.headers["Cache-Control"] == "no-cache"
    assert client.get("/docs/explorer").headers["Cache-Control"] == "no-store"


def test_file_that_is_compressed_on_its_way_is_closed(client: FlaskClient) -> None:
    """Small: a file that nothing closes is a warning, which fails the test."""
    with client.get("/docs/assets/apidocs.js", headers={"Accept-Encoding": "gzip"}) as response:
        assert response.headers["Content-Encoding"] == "gzip"
    del response
    gc.collect()


@pytest.mark.parametrize("path", ["/nothing", "/docs/static/nothing.js"])
def test_missing_page_is_an_html_404(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.mimetype == "text/html"
    assert response.headers["X-Request-Id"] in response.text


def test_other_urls_of_flasgger_are_redirected_or_missing(client: FlaskClient) -> None:
    assert client.get("/apidocs/index.html").headers["Location"] == "/docs/explorer"
    assert client.get("/oauth2-redirect.html").status_code == 404


def resolve(document: dict, schema: dict) -> dict:
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
