"""Every operation of the API answers generated requests, good and bad ones, as the OpenAPI document says.

`tests/support/contract.py` compares the answers, as in every other test. EXAMPLES is the number of requests for each
operation; `make fuzz` sends more of them.
"""

import os
from collections.abc import Mapping
from itertools import count
from typing import Any

import pytest
import redis
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import APIOperation, BaseSchema, Case, GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection

from saas_api.docs import openapi
from tests.support import contract
from tests.support.accounts import Headers, User, create_key
from tests.support.services import create_service, service_headers

EXAMPLES = int(os.environ.get("EXAMPLES", "4"))
HAS_NO_SCHEMA = {"receive_provider_event", "receive_paystack_event", "receive_stripe_event"}
REJECTS_ONE_BY_ONE = {"record_events"}
SETTINGS = settings(
    max_examples=max(1, EXAMPLES // 2),
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def schema(app: Flask) -> BaseSchema:
    return schemathesis.openapi.from_wsgi("/api/v1/openapi.json", app)


@pytest.fixture
def known(client: FlaskClient, alice: User) -> tuple[dict[str, str], Headers]:
    """Ids of what alice has, by parameter of a path; and her API key."""
    key_id, key = create_key(client, alice)
    message = {"type": "sms", "to": "+2348012345678", "message": "Hello"}
    sent = client.post("/api/v1/messages/send", json=message, headers=key).json
    _, endpoint = alice.call("POST", "/webhooks/endpoints", url="https://acme.example/hook")
    _, invitation = alice.call("POST", "/team/invite", email="bob@acme.example", role="member")
    ids = {
        "key_id": key_id,
        "message_id": sent["data"]["message_id"],
        "endpoint_id": endpoint["id"],
        "invitation_id": invitation["invitation_id"],
        "organization_id": alice.organization_id,
        "user_id": alice.user_id,
    }
    return ids, key


@pytest.mark.parametrize("tag", sorted(openapi.TAGS))
def test_operations_answer_as_documented(
    app: Flask, alice: User, known: tuple[dict[str, str], Headers], cache: redis.Redis, schema: BaseSchema, tag: str
) -> None:
    ids, key = known
    callers = {"accessToken": alice.headers, "apiKey": key, "serviceToken": service_headers(create_service(app))}
    for result in schema.include(tag=tag).get_all_operations():
        operation = result.ok()
        raw = operation.definition.raw
        headers = next((callers[name] for scheme in raw["security"] for name in scheme), {})
        for mode in GenerationMode:
            if mode is GenerationMode.POSITIVE or raw["operationId"] not in HAS_NO_SCHEMA:
                cache.flushdb()
                send_requests(operation, mode, headers, ids)


def send_requests(
    operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, headers: Headers, ids: Mapping[str, str]
) -> None:
    """Send generated requests; every other one names what there is."""
    number = count()

    @SETTINGS
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Case) -> None:
        if next(number) % 2 == 0:
            case.path_parameters = {name: ids.get(name, value) for name, value in case.path_parameters.items()}
        response = case.call(headers=headers)
        assert response.status_code not in contract.FAULTS, case.as_curl_command()
        if response.status_code < 400 and operation.definition.raw["operationId"] not in REJECTS_ONE_BY_ONE:
            case.validate_response(response, checks=[negative_data_rejection])

    send()
