"""The service's side of the client against the product: holds, events, reversals and names of customers."""

from flask import Flask
from flask.testing import FlaskClient

from tests.support import metering, node
from tests.support.accounts import User, make_key
from tests.support.services import create_service
from tests.support.serving import served

PROGRAM = """
const service = new Client({ baseUrl: given.address, token: given.token });
const held = await service.hold({ key: given.key, meter: "lookups", quantity: 8, seconds: 60 });
const refused = await service.hold({ key: given.key, meter: "lookups", quantity: 3 }).catch((error) => error);
const open = await service.getHold(held.hold_id);
const settled = await service.settle(held.hold_id, { quantity: 2.5 });
const ended = await service.release(held.hold_id).catch((error) => error);
const other = await service.hold({ organization_id: given.organization, meter: "lookups", quantity: 3 });
const released = await service.release(other.hold_id);

const named = await service.setExternalId(given.organization, "customer 7");
const rejected = [];
const events = new EventBuffer(service, { onRejected: (event, { code }) => rejected.push([event.id, code]) });
const call = { type: "lookups", subject: "customer 7" };
await events.record({ ...call, id: "a", data: { quantity: 4 } });
await events.record({ ...call, id: "b", type: "nothing" });
await events.close();
const { duplicates } = await service.record([{ ...call, id: "a", data: { quantity: 4 } }]);
const first = await service.reverse("a", {}, { idempotencyKey: "once" });
const repeated = await service.reverse("a", {}, { idempotencyKey: "once" });
const again = await service.reverse("a").catch((error) => error);

const stranger = new Client({ baseUrl: given.address, token: "svc_" + "0".repeat(46) });
const unknown = await stranger.verify({ key: given.key }).catch((error) => error);
const outcome = (error) => [error instanceof ApiError, error.status, error.code];
console.log(JSON.stringify({
  statuses: [open.status, settled.status, released.status],
  errors: [refused, ended, again, unknown].map(outcome),
  name: named.organization.id,
  rejected,
  duplicates,
  isOneReversal: first.id === repeated.id,
}));
"""


def test_service_holds_records_and_reverses(
    app: Flask, client: FlaskClient, alice: User, environment: dict[str, str]
) -> None:
    metering.publish_meter(app)
    quota = {"lookups_quota": {"meter": "lookups", "limit": "10"}}
    prices = {"lookups": {"model": "per_unit", "unit_price": "0.02"}}
    metering.move_to_plan(app, alice, entitlements=quota, prices=prices)
    given = {
        "token": create_service(app),
        "key": make_key(client, alice)["X-API-Key"],
        "organization": alice.organization_id,
    }
    with served(app) as url:
        result = node.run_program(environment, PROGRAM, address=url, **given)
    assert result == {
        "statuses": ["open", "settled", "released"],
        "errors": [
            [True, 429, "QUOTA_EXCEEDED"],
            [True, 409, "HOLD_ENDED"],
            [True, 409, "ALREADY_REVERSED"],
            [True, 401, "INVALID_SERVICE_TOKEN"],
        ],
        "name": alice.organization_id,
        "rejected": [["b", "UNKNOWN_METER"]],
        "duplicates": 1,
        "isOneReversal": True,
    }
    assert metering.usage_events(app, "quantity::float") == [(2.5,), (4,), (-4,)]
