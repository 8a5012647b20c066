"""The customer's side of the client against the product."""

import json
import time
from collections.abc import Iterator

import pytest
from flask import Flask

from saas_api.webhooks import payload
from tests.support import node
from tests.support.accounts import User
from tests.support.serving import served


@pytest.fixture
def address(app: Flask) -> Iterator[str]:
    with served(app) as url:
        yield url


def test_customer_creates_a_key_sends_a_message_and_sees_its_usage(
    environment: dict[str, str], address: str, alice: User
) -> None:
    program = """
    const alice = new Client({ baseUrl: given.address, token: given.token });
    const created = await alice.keys.create({ name: "first key", mode: "live" });
    const customer = new Client({ baseUrl: given.address, token: created.key });
    const message = { type: "sms", to: "+2348012345678", message: "Hello" };
    const sent = await customer.messages.send(message, { idempotencyKey: "once" });
    const repeated = await customer.messages.send(message, { idempotencyKey: "once" });
    const usage = await customer.usage.get();
    const { keys } = await alice.keys.list({ mode: "live" });
    const canceled = await customer.messages.cancel(sent.message_id);
    const rotated = await alice.keys.rotate(created.id, 60);
    const updated = await alice.keys.update(created.id, { name: "renamed" });
    await alice.keys.revoke(created.id);
    const refused = await customer.messages.list().catch((error) => error);
    console.log(JSON.stringify({
      isSame: sent.message_id === repeated.message_id,
      requests: usage.summary.total_requests,
      names: keys.map((key) => key.name),
      status: canceled.status,
      isRotated: rotated.key !== created.key,
      name: updated.name,
      refused: [refused instanceof ApiError, refused.status, refused.code, refused.requestId],
    }));
    """
    result = node.run_program(environment, program, address=address, token=alice.token)
    *refusal, request_id = result.pop("refused")
    assert refusal == [True, 401, "INVALID_API_KEY"]
    assert request_id.startswith("req_")
    assert result == {
        "isSame": True,
        "requests": 1,
        "names": ["first key"],
        "status": "canceled",
        "isRotated": True,
        "name": "renamed",
    }


def test_webhook_that_the_product_signs_is_verified(environment: dict[str, str]) -> None:
    body = json.dumps({"id": "evt_1", "type": "webhook.test", "data": {"name": "Zoë"}}, ensure_ascii=False)
    old, new = payload.generate_secret(), payload.generate_secret()
    headers = payload.signature_headers([old, new], "evt_1", int(time.time()), body.encode())
    program = """
    const { secrets, headers, body } = given;
    const names = [];
    for (const secret of secrets) names.push((await verifyWebhook(secret, headers, body)).data.name);
    const refusal = await verifyWebhook(secrets[0], headers, body + " ").catch((error) => error);
    console.log(JSON.stringify([...names, refusal instanceof WebhookVerificationError]));
    """
    result = node.run_program(environment, program, secrets=[old, new], headers=headers, body=body)
    assert result == ["Zoë", "Zoë", True]
