import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { ApiError, Client, PlatformUnreachableError } from "saas-api-client";
import { startPlatform, UNAVAILABLE } from "./platform.js";

let platform;
afterEach(() => platform?.close());

async function start(respond, options) {
  platform = await startPlatform(respond);
  return new Client({ baseUrl: platform.url, token: "svc_token", ...options });
}

const VALID = { data: { valid: true, code: "VALID" } };

test("a call carries the token and returns the data", async () => {
  const client = await start(() => VALID);
  assert.deepEqual(await client.verify({ key: "sk_live_alice" }), VALID.data);
  const [request] = platform.requests;
  assert.deepEqual([request.method, request.path], ["POST", "/api/v1/keys/verify"]);
  assert.equal(request.headers.authorization, "Bearer svc_token");
  assert.deepEqual(request.body, { key: "sk_live_alice" });
});

test("a metered check is repeated with the same event id after an outage and a broken connection", async () => {
  const client = await start((_, count) => [UNAVAILABLE, "hang up", VALID][count - 1]);
  assert.equal((await client.verify({ key: "sk_live_alice", meter: "lookups" })).valid, true);
  const ids = platform.requests.map(({ body }) => body.event_id);
  assert.equal(ids.length, 3);
  assert.match(ids[0], /^[0-9a-f-]{36}$/);
  assert.equal(new Set(ids).size, 1);
});

test("a given event id is kept", async () => {
  const client = await start(() => VALID);
  await client.verify({ key: "sk_live_alice", meter: "lookups", event_id: "order 17" });
  assert.equal(platform.requests[0].body.event_id, "order 17");
});

test("a fraction is sent as a decimal string", async () => {
  const client = await start(() => ({ data: { accepted: 1, duplicates: 0, rejected: 0, errors: [] } }));
  await client.verify({ key: "sk_live_alice", meter: "gigabytes", quantity: 0.1 + 0.2 });
  await client.settle("hld_1", { quantity: 7 });
  await client.record([{ type: "gigabytes", subject: "org_alice", data: { quantity: 1e-7, region: "eu" } }]);
  const [verified, settled, [event]] = platform.requests.map(({ body }) => body);
  assert.deepEqual([verified.quantity, settled.quantity], ["0.300000", 7]);
  assert.deepEqual(event.data, { quantity: "0.000000", region: "eu" });
});

test("a message is repeated with the same Idempotency-Key while the first request runs", async () => {
  const running = { status: 409, error: { code: "IDEMPOTENCY_IN_PROGRESS", message: "Still running." } };
  const client = await start((_, count) => (count === 1 ? running : { status: 202, data: { message_id: "msg_1" } }));
  await client.messages.send({ type: "sms", to: "+2348012345678", message: "Hello" });
  const keys = platform.requests.map(({ headers }) => headers["idempotency-key"]);
  assert.equal(keys.length, 2);
  assert.equal(keys[0], keys[1]);
});

test("a reversal is repeated with the same Idempotency-Key", async () => {
  const client = await start((_, count) => (count === 1 ? "hang up" : { data: { reversal_of: "uev_1" } }));
  assert.deepEqual(await client.reverse("call 7/8", { subject: "org_alice" }), { reversal_of: "uev_1" });
  assert.equal(platform.requests[0].path, "/api/v1/events/call%207%2F8/reverse");
  assert.deepEqual(platform.requests[0].body, { subject: "org_alice" });
  assert.equal(new Set(platform.requests.map(({ headers }) => headers["idempotency-key"])).size, 1);
});

test("Retry-After is waited for", async () => {
  const limited = {
    status: 429,
    headers: { "Retry-After": "1" },
    error: { code: "RATE_LIMIT_EXCEEDED", message: "Slow down." },
  };
  const client = await start((_, count) => (count === 1 ? limited : { data: { keys: [] } }));
  const startedAt = Date.now();
  await client.keys.list();
  assert.ok(Date.now() - startedAt >= 990);
});

test("a Retry-After over the longest wait ends the call with its error", async () => {
  const limited = {
    status: 429,
    headers: { "Retry-After": "50" },
    error: { code: "RATE_LIMIT_EXCEEDED", message: "Slow down." },
  };
  const client = await start(() => limited);
  await assert.rejects(client.usage.get(), { code: "RATE_LIMIT_EXCEEDED", retryAfterSeconds: 50 });
  assert.equal(platform.requests.length, 1);
});

test("a used-up quota is not asked again, and neither is a refused hold", async () => {
  const client = await start(({ path }) =>
    path.endsWith("/holds")
      ? { status: 429, headers: { "Retry-After": "1" }, error: { code: "RATE_LIMITED", message: "Slow down." } }
      : { status: 429, error: { code: "QUOTA_EXCEEDED", message: "Used up." } },
  );
  await assert.rejects(client.messages.send({}), { code: "QUOTA_EXCEEDED" });
  await assert.rejects(client.hold({ key: "sk_live_alice", meter: "tokens", quantity: 5 }), { code: "RATE_LIMITED" });
  assert.equal(platform.requests.length, 2);
});

test("retries are bounded", async () => {
  const client = await start(() => UNAVAILABLE, { maxRetries: 2 });
  await assert.rejects(client.getHold("hld_1"), { status: 503 });
  assert.equal(platform.requests.length, 3);
});

test("an error has code, status, details and request id", async () => {
  const details = { fields: [{ field: "meter", reason: "There is no such meter." }] };
  const client = await start(() => ({
    status: 422,
    error: { code: "VALIDATION_ERROR", message: "Some fields are not valid.", details },
  }));
  const error = await client.verify({ key: "sk_live_alice", meter: "nothing" }).catch((reason) => reason);
  assert.ok(error instanceof ApiError);
  assert.deepEqual(
    [error.code, error.status, error.details, error.requestId],
    ["VALIDATION_ERROR", 422, details, "req_stub"],
  );
  assert.equal(error.message, "Some fields are not valid.");
});

test("a page of HTML from a proxy is an error with its status", async () => {
  const client = await start(() => ({ status: 404, html: "<h1>Not found</h1>" }));
  await assert.rejects(client.keys.get("key_1"), { name: "ApiError", code: "HTTP_404", status: 404 });
});

test("a platform that is not there is a PlatformUnreachableError", async () => {
  const client = await start(() => VALID, { maxRetries: 1 });
  await platform.close();
  await assert.rejects(
    client.verify({ key: "sk_live_alice" }),
    (error) => error instanceof PlatformUnreachableError && error.cause instanceof Error,
  );
});

test("a response that does not come in time is a PlatformUnreachableError", async () => {
  const client = await start(() => new Promise(() => {}), { timeoutMs: 50, maxRetries: 0 });
  await assert.rejects(client.verify({ key: "sk_live_alice" }), /no response within 50 ms/);
});

test("an aborted call ends at once and is not repeated", async () => {
  const client = await start(() => ({ ...UNAVAILABLE, headers: { "Retry-After": "20" } }));
  await assert.rejects(client.keys.list({}, { signal: AbortSignal.timeout(100) }), { name: "TimeoutError" });
  assert.ok(platform.requests.length <= 1);
});

test("the token is not sent to where a redirect points", async () => {
  const client = await start(({ path }) =>
    path === "/elsewhere" ? VALID : { status: 307, headers: { Location: "/elsewhere" }, data: null },
  );
  await assert.rejects(client.verify({ key: "sk_live_alice" }), { name: "ApiError", status: 307 });
  assert.equal(platform.requests.length, 1);
});

test("query, ids and a path in the url are put together", async () => {
  platform = await startPlatform(() => ({ data: {} }));
  const client = new Client({ baseUrl: `${platform.url}/platform/`, token: "token" });
  await client.messages.list({ limit: 5, status: "failed", cursor: undefined });
  await client.keys.revoke("key/../1");
  assert.deepEqual(
    platform.requests.map(({ path }) => path),
    ["/platform/api/v1/messages?limit=5&status=failed", "/platform/api/v1/keys/key%2F..%2F1"],
  );
});

test("a client without url or token is refused", () => {
  assert.throws(() => new Client({ baseUrl: "ftp://platform.example", token: "t" }), TypeError);
  assert.throws(() => new Client({ baseUrl: "https://platform.example", token: "" }), TypeError);
});

test("CommonJS has the same exports", async () => {
  const { createRequire } = await import("node:module");
  const required = createRequire(import.meta.url)("saas-api-client");
  assert.deepEqual(Object.keys(required).sort(), Object.keys(await import("saas-api-client")).sort());
});
