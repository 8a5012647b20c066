import assert from "node:assert/strict";
import { afterEach, describe, test } from "node:test";
import { serve } from "@hono/node-server";
import express from "express";
import Fastify from "fastify";
import { Hono } from "hono";
import { Client } from "saas-api-client";
import * as forExpress from "saas-api-client/express";
import * as forFastify from "saas-api-client/fastify";
import * as forHono from "saas-api-client/hono";
import { startPlatform, UNAVAILABLE } from "./platform.js";

/** An API with GET /v1/lookups/{number}, in each framework; resolves with its url and how to stop it. */
const FRAMEWORKS = {
  express: async (client, route) => {
    const app = express();
    app.get("/v1/lookups/:number", forExpress.metered(client, route), (request, response) => {
      response.json({ number: request.params.number, customer: request.customer?.organization_id ?? null });
    });
    app.use((error, request, response, next) => response.status(500).json({ mistake: error.code ?? error.message }));
    const server = await new Promise((resolve) => {
      const listening = app.listen(0, "127.0.0.1", () => resolve(listening));
    });
    return [server.address().port, () => new Promise((resolve) => server.close(resolve))];
  },
  fastify: async (client, route) => {
    const app = Fastify();
    app.setErrorHandler((error, request, reply) => reply.code(500).send({ mistake: error.code ?? error.message }));
    app.get("/v1/lookups/:number", { preHandler: forFastify.metered(client, route) }, async (request) => {
      return { number: request.params.number, customer: request.customer?.organization_id ?? null };
    });
    await app.listen({ port: 0, host: "127.0.0.1" });
    return [app.server.address().port, () => app.close()];
  },
  hono: async (client, route) => {
    const app = new Hono();
    app.get("/v1/lookups/:number", forHono.metered(client, route), (context) => {
      return context.json({
        number: context.req.param("number"),
        customer: context.get("customer")?.organization_id ?? null,
      });
    });
    app.onError((error, context) => context.json({ mistake: error.code ?? error.message }, 500));
    const server = serve({ fetch: app.fetch, port: 0, hostname: "127.0.0.1" });
    if (!server.listening) await new Promise((resolve) => server.once("listening", resolve));
    return [server.address().port, () => new Promise((resolve) => server.close(resolve))];
  },
};

const LIMITS = [
  { name: "plan", limit: 100, remaining: 90, reset_at: new Date(Date.now() + 60_000).toISOString() },
  { name: "key", limit: 20, remaining: 3, reset_at: new Date(Date.now() + 30_000).toISOString() },
];
const VALID = { data: { valid: true, code: "VALID", organization_id: "org_alice", limits: LIMITS } };
const REFUSALS = [
  ["NOT_FOUND", 401, "INVALID_API_KEY"],
  ["INSUFFICIENT_SCOPE", 403, "INSUFFICIENT_SCOPE"],
  ["IP_NOT_ALLOWED", 403, "IP_NOT_ALLOWED"],
  ["ORGANIZATION_SUSPENDED", 403, "ORGANIZATION_SUSPENDED"],
  ["SUBSCRIPTION_RESTRICTED", 402, "SUBSCRIPTION_RESTRICTED"],
  ["SPEND_CAP_REACHED", 402, "SPEND_CAP_REACHED"],
  ["QUOTA_EXCEEDED", 429, "QUOTA_EXCEEDED"],
  ["RATE_LIMITED", 429, "RATE_LIMIT_EXCEEDED"],
  ["A_LATER_CODE", 403, "A_LATER_CODE"],
];

for (const [framework, startApi] of Object.entries(FRAMEWORKS)) {
  describe(framework, () => {
    let platform;
    let stop;
    afterEach(async () => {
      await stop?.();
      await platform?.close();
    });

    async function get(respond, route, headers = { "X-API-Key": "sk_live_alice" }) {
      platform = await startPlatform(respond);
      let port;
      [port, stop] = await startApi(new Client({ baseUrl: platform.url, token: "svc_token" }), route);
      return fetch(`http://127.0.0.1:${port}/v1/lookups/42?verbose=1`, {
        headers: { ...headers, Connection: "close" },
      });
    }

    test("a request of a good key passes, with its limits", async () => {
      const response = await get(() => VALID, { permission: "lookups:read", meter: "lookups" });
      assert.deepEqual(await response.json(), { number: "42", customer: "org_alice" });
      assert.equal(response.headers.get("RateLimit-Policy"), '"plan";q=100;w=60, "key";q=20;w=60');
      assert.match(response.headers.get("RateLimit"), /^"key";r=3;t=[123]\d?$/);
      assert.deepEqual(
        ["Limit", "Remaining"].map((name) => response.headers.get(`X-RateLimit-${name}`)),
        ["20", "3"],
      );
      const { event_id, ...asked } = platform.requests[0].body;
      assert.ok(event_id);
      assert.deepEqual(asked, {
        key: "sk_live_alice",
        permission: "lookups:read",
        meter: "lookups",
        endpoint: "GET /v1/lookups/:number",
        ip: "127.0.0.1",
      });
    });

    test("quantity and dimensions are taken from the request, the endpoint from the route", async () => {
      const quantity = (request) => (request.req?.url ?? request.url).length;
      await get(() => VALID, {
        meter: "tokens",
        quantity,
        dimensions: () => ({ model: "small" }),
        endpoint: "GET /lookups",
      });
      const { body } = platform.requests[0];
      assert.ok(body.quantity > 10);
      assert.deepEqual([body.dimensions, body.endpoint], [{ model: "small" }, "GET /lookups"]);
    });

    test("a bearer key is read, and a request without a key is refused without asking", async () => {
      assert.equal((await get(() => VALID, {}, { Authorization: "Bearer sk_live_bob" })).status, 200);
      assert.equal(platform.requests[0].body.key, "sk_live_bob");
      await stop();
      await platform.close();
      const response = await get(() => VALID, {}, {});
      const { error } = await response.json();
      assert.deepEqual([response.status, error.code, error.request_id], [401, "MISSING_API_KEY", null]);
      assert.equal(response.headers.get("WWW-Authenticate"), "Bearer");
      assert.equal(platform.requests.length, 0);
    });

    test("a key that is too long to be one is refused without asking", async () => {
      const response = await get(() => VALID, {}, { "X-API-Key": "k".repeat(256) });
      assert.deepEqual(
        [response.status, (await response.json()).error.code, platform.requests.length],
        [401, "INVALID_API_KEY", 0],
      );
    });

    test("every refusal has its status, our error body and Retry-After where waiting helps", async () => {
      let refusal;
      const data = () => ({
        valid: false,
        code: refusal,
        limits: LIMITS,
        ...(refusal === "RATE_LIMITED" && { retry_after_seconds: 7 }),
      });
      for (const [code, status, expected] of REFUSALS) {
        refusal = code;
        const response = await get(() => ({ data: data() }), { meter: "lookups" });
        const { success, error } = await response.json();
        assert.deepEqual(
          [response.status, success, error.code, error.request_id],
          [status, false, expected, "req_stub"],
        );
        assert.ok(error.message && error.details);
        assert.equal(response.headers.get("Retry-After"), code === "RATE_LIMITED" ? "7" : null);
        assert.ok(response.headers.get("RateLimit"));
        await stop();
        await platform.close();
      }
    });

    test("requests get 503 while the platform is away, and pass where that was chosen", async () => {
      const response = await get(() => UNAVAILABLE, { meter: "lookups" });
      const { error } = await response.json();
      assert.deepEqual(
        [response.status, error.code, error.request_id, response.headers.get("Retry-After")],
        [503, "SERVICE_UNAVAILABLE", null, "1"],
      );
      await stop();
      await platform.close();
      const passed = await get(() => "hang up", { meter: "lookups", failOpen: true });
      assert.deepEqual(await passed.json(), { number: "42", customer: null });
    });

    test("a mistake of the service itself goes to the framework's error handler, also with failOpen", async () => {
      const refusal = { status: 401, error: { code: "INVALID_SERVICE_TOKEN", message: "Not valid." } };
      const response = await get(() => refusal, { failOpen: true });
      assert.deepEqual([response.status, await response.json()], [500, { mistake: "INVALID_SERVICE_TOKEN" }]);
      await stop();
      await platform.close();
      const thrown = await get(() => VALID, {
        quantity: () => {
          throw new Error("no body");
        },
      });
      assert.deepEqual(await thrown.json(), { mistake: "no body" });
    });
  });
}

test("middleware before a router of Express names the prefix, and leaves an unreadable address out", async () => {
  const platform = await startPlatform(() => VALID);
  const app = express().set("trust proxy", true);
  app.use("/v1", forExpress.metered(new Client({ baseUrl: platform.url, token: "svc_token" })), (request, response) =>
    response.end(),
  );
  const server = await new Promise((resolve) => {
    const listening = app.listen(0, "127.0.0.1", () => resolve(listening));
  });
  for (const address of ["2001:db8::1", "unknown"]) {
    const headers = { "X-API-Key": "sk_live_alice", "X-Forwarded-For": address, Connection: "close" };
    await fetch(`http://127.0.0.1:${server.address().port}/v1/lookups/42`, { headers });
  }
  const asked = platform.requests.map(({ body }) => [body.endpoint, body.ip]);
  assert.deepEqual(asked, [
    ["GET /v1/*", "2001:db8::1"],
    ["GET /v1/*", undefined],
  ]);
  await new Promise((resolve) => server.close(resolve));
  await platform.close();
});
