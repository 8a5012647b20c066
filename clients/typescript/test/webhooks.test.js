import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test } from "node:test";
import { verifyWebhook, WebhookVerificationError } from "saas-api-client";

const SECRET = `whsec_${Buffer.from("a secret of an endpoint").toString("base64")}`;
const BODY = JSON.stringify({ id: "evt_1", type: "invoice.paid", data: { note: "für Alice" } });

function sign(secret, { id = "evt_1", at = Math.floor(Date.now() / 1000), body = BODY } = {}) {
  const key = Buffer.from(secret.slice("whsec_".length), "base64");
  const signature = createHmac("sha256", key).update(`${id}.${at}.${body}`).digest("base64");
  return { "webhook-id": id, "webhook-timestamp": String(at), "webhook-signature": `v1,${signature}` };
}

test("a signed request gives its event, from text and bytes, Node's headers and Headers", async () => {
  const headers = sign(SECRET);
  for (const given of [headers, new Headers(headers)]) {
    for (const body of [BODY, Buffer.from(BODY)]) {
      assert.equal((await verifyWebhook(SECRET, given, body)).data.note, "für Alice");
    }
  }
});

test("one matching signature of several is enough", async () => {
  const headers = sign(SECRET);
  headers["webhook-signature"] = `v1,${Buffer.alloc(32).toString("base64")} v1a,other ${headers["webhook-signature"]}`;
  assert.equal((await verifyWebhook(SECRET, headers, BODY)).id, "evt_1");
});

test("another secret, a changed body and id, and a missing signature are refused", async () => {
  const other = `whsec_${Buffer.from("another").toString("base64")}`;
  const refused = [
    [sign(other), BODY],
    [sign(SECRET), BODY.replace("paid", "void")],
    [{ ...sign(SECRET), "webhook-id": "evt_2" }, BODY],
    [{ ...sign(SECRET), "webhook-signature": undefined }, BODY],
    [{ ...sign(SECRET), "webhook-signature": "v1,not base64!" }, BODY],
    [{}, BODY],
  ];
  for (const [headers, body] of refused)
    await assert.rejects(verifyWebhook(SECRET, headers, body), WebhookVerificationError);
});

test("a request of more than five minutes away is refused", async () => {
  const now = Math.floor(Date.now() / 1000);
  for (const at of [now - 310, now + 310, "1e10", "NaN"]) {
    await assert.rejects(verifyWebhook(SECRET, sign(SECRET, { at }), BODY), WebhookVerificationError);
  }
});

test("an empty secret is not a secret", async () => {
  for (const secret of ["", "whsec_", "whsec_%"])
    await assert.rejects(verifyWebhook(secret, sign(SECRET), BODY), TypeError);
});
