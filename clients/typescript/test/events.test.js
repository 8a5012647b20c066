import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { afterEach, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Client, EventBuffer, UnsentEventsError } from "saas-api-client";
import { startPlatform, UNAVAILABLE } from "./platform.js";

let platform;
let buffer;
afterEach(async () => {
  await buffer?.close(0).catch(() => {});
  await platform?.close();
});

const CALL = { type: "lookups", subject: "org_alice" };
const accept = ({ body }) => ({ data: { accepted: body.length, duplicates: 0, rejected: 0, errors: [] } });
const batchSizes = () => platform.requests.map(({ body }) => body.length);

async function start(respond, options, clientOptions) {
  platform = await startPlatform(respond);
  buffer = new EventBuffer(
    new Client({ baseUrl: platform.url, token: "svc_token", maxRetries: 0, ...clientOptions }),
    options,
  );
  return buffer;
}

test("events are CloudEvents with an id and the time of their addition", async () => {
  await start(accept);
  const before = Date.now();
  await buffer.record({ ...CALL, data: { quantity: "1.5", model: "small" } });
  await buffer.record({ ...CALL, id: "call-7", time: "2026-03-01T00:00:00Z", source: "edge" });
  await buffer.flush();
  const [{ path, headers, body }] = platform.requests;
  assert.deepEqual([path, headers["content-type"]], ["/api/v1/events", "application/cloudevents-batch+json"]);
  assert.deepEqual(
    [body[0].specversion, body[0].type, body[0].subject, body[0].data],
    ["1.0", "lookups", "org_alice", { quantity: "1.5", model: "small" }],
  );
  assert.match(body[0].id, /^[0-9a-f-]{36}$/);
  assert.ok(Date.parse(body[0].time) >= before && Date.parse(body[0].time) <= Date.now());
  assert.deepEqual([body[1].id, body[1].time, body[1].source], ["call-7", "2026-03-01T00:00:00Z", "edge"]);
});

test("2,500 events are sent in batches of at most 1,000", async () => {
  await start(accept);
  for (let n = 0; n < 2_500; n++) await buffer.record({ ...CALL, id: String(n) });
  await buffer.close();
  assert.equal(Math.max(...batchSizes()), 1_000);
  assert.deepEqual(
    platform.requests.flatMap(({ body }) => body.map(({ id }) => Number(id))),
    [...Array(2_500).keys()],
  );
});

test("a batch has at most 1 MiB, and a larger event is refused", async () => {
  await start(accept);
  for (let n = 0; n < 5; n++) await buffer.record({ ...CALL, data: { text: "ä".repeat(200_000) } });
  await assert.rejects(buffer.record({ ...CALL, data: { text: "ä".repeat(600_000) } }), TypeError);
  await buffer.flush();
  assert.deepEqual(batchSizes(), [2, 2, 1]);
  assert.ok(platform.requests.every(({ text }) => Buffer.byteLength(text) <= 1024 * 1024));
});

test("events are sent by themselves when the interval is over", async () => {
  const arrived = new Promise(
    (resolve) =>
      void start((request) => (resolve(request.body.length), accept(request)), { flushIntervalMs: 20 }).then(() => {
        void buffer.record(CALL);
        void buffer.record(CALL);
      }),
  );
  assert.equal(await arrived, 2);
});

test("a batch whose answer was lost is sent again, byte for byte", async () => {
  await start((request, count) => (count < 3 ? ["hang up", UNAVAILABLE][count - 1] : accept(request)), {
    flushIntervalMs: 1,
  });
  await buffer.record(CALL);
  await assert.rejects(buffer.flush());
  assert.equal(buffer.unsent, 1);
  await buffer.close();
  assert.equal(platform.requests.length, 3);
  assert.equal(new Set(platform.requests.map(({ text }) => text)).size, 1);
  assert.equal(buffer.unsent, 0);
});

test("events stay while the token is refused, and errors are reported", async () => {
  const errors = [];
  let isRefused = true;
  const refusal = { status: 401, error: { code: "INVALID_SERVICE_TOKEN", message: "Not valid." } };
  await start((request) => (isRefused ? refusal : accept(request)), {
    flushIntervalMs: 1,
    onError: (error) => errors.push(error.code),
  });
  await buffer.record(CALL);
  await assert.rejects(buffer.flush(), { code: "INVALID_SERVICE_TOKEN" });
  isRefused = false;
  await buffer.close();
  assert.ok(errors.includes("INVALID_SERVICE_TOKEN"));
  assert.equal(platform.requests.at(-1).body.length, 1);
});

test("record waits while the buffer is full, and takes the event all the same", async () => {
  let open;
  const opened = new Promise((resolve) => (open = resolve));
  await start(async (request) => (await opened, accept(request)), { maxBuffered: 3, flushIntervalMs: 1 });
  await buffer.record(CALL);
  await buffer.record(CALL);
  let isThereRoom = false;
  const third = buffer.record(CALL).then(() => (isThereRoom = true));
  await new Promise((resolve) => setTimeout(resolve, 30));
  assert.deepEqual([isThereRoom, buffer.unsent], [false, 3]);
  open();
  await third;
  await buffer.flush();
  assert.equal(
    batchSizes().reduce((sum, size) => sum + size),
    3,
  );
});

test("a rejected event is reported, and the others are not sent again", async () => {
  const rejected = [];
  const error = { index: 1, id: "b", code: "UNKNOWN_METER", message: "There is no such meter." };
  await start(() => ({ data: { accepted: 1, duplicates: 0, rejected: 1, errors: [error] } }), {
    onRejected: (event, { code }) => rejected.push([event.id, code]),
  });
  await buffer.record({ ...CALL, id: "a" });
  await buffer.record({ ...CALL, id: "b", type: "nothing" });
  await buffer.flush();
  assert.deepEqual(rejected, [["b", "UNKNOWN_METER"]]);
  assert.deepEqual([buffer.unsent, platform.requests.length], [0, 1]);
});

test("an event that makes the batch unreadable is found, and the others are recorded", async () => {
  const rejected = [];
  const recorded = [];
  const refusal = { status: 400, error: { code: "INVALID_REQUEST", message: "Cannot be read." } };
  await start(
    (request) => {
      if (request.body.some(({ id }) => id === "3")) return refusal;
      recorded.push(...request.body.map(({ id }) => id));
      return accept(request);
    },
    { onRejected: (event, { code }) => rejected.push([event.id, code]) },
  );
  for (let n = 0; n < 7; n++) await buffer.record({ ...CALL, id: String(n) });
  await buffer.flush();
  assert.deepEqual(rejected, [["3", "INVALID_REQUEST"]]);
  assert.deepEqual(recorded, ["0", "1", "2", "4", "5", "6"]);
});

test("closing a buffer whose events cannot be sent hands them over", async () => {
  await start(() => UNAVAILABLE);
  await buffer.record({ ...CALL, id: "kept" });
  await assert.rejects(
    buffer.close(50),
    (error) => error instanceof UnsentEventsError && error.events[0].id === "kept",
  );
  await assert.rejects(buffer.record(CALL), /closed/);
});

/** Run a program that has a buffer; resolves with how it ended. */
async function runProgram(url, body, { whenReady, exitTimeoutMs = 20_000 } = {}) {
  const program = `
    import { Client, EventBuffer } from "saas-api-client";
    const client = new Client({ baseUrl: ${JSON.stringify(url)}, token: "svc_token", maxRetries: 0 });
    const buffer = new EventBuffer(client, { flushIntervalMs: 60_000, exitTimeoutMs: ${exitTimeoutMs} });
    void buffer.record({ type: "lookups", subject: "org_alice", id: "last" });
    ${body}`;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", program], {
    cwd: fileURLToPath(new URL("..", import.meta.url)),
  });
  let [out, errors] = ["", ""];
  child.stdout.on("data", (piece) => {
    out += piece;
    if (out.includes("ready")) whenReady?.(child);
  });
  child.stderr.on("data", (piece) => (errors += piece));
  const [code, signal] = await new Promise((resolve) => child.on("close", (...end) => resolve(end)));
  return { code, signal, out, errors };
}

const STAY = `setInterval(() => {}, 1000); console.log("ready");`;

test("a program that comes to its end sends the rest first", async () => {
  platform = await startPlatform(accept);
  const { code } = await runProgram(platform.url, "");
  assert.deepEqual([code, platform.requests.map(({ body }) => body[0].id)], [0, ["last"]]);
});

test("a program that gets SIGTERM sends the rest, then ends by the signal", async () => {
  platform = await startPlatform(accept);
  const { signal } = await runProgram(platform.url, STAY, { whenReady: (child) => child.kill("SIGTERM") });
  assert.deepEqual([signal, platform.requests.length], ["SIGTERM", 1]);
});

test("a program with its own handler of SIGTERM decides itself when it ends", async () => {
  platform = await startPlatform(accept);
  const handler = `process.on("SIGTERM", async () => { await buffer.close(); process.exit(7); });`;
  const { code } = await runProgram(platform.url, handler + STAY, { whenReady: (child) => child.kill("SIGTERM") });
  assert.deepEqual([code, platform.requests.length], [7, 1]);
});

test("what cannot be sent at the end is written to stderr", async () => {
  platform = await startPlatform(() => UNAVAILABLE);
  const { code, errors } = await runProgram(platform.url, "", { exitTimeoutMs: 300 });
  assert.equal(code, 1);
  assert.match(errors, /usage event was not sent: \{.*"id":"last"/);
});

test("process.exit() does not wait, and writes what was not sent to stderr", async () => {
  platform = await startPlatform(accept);
  const { code, errors } = await runProgram(platform.url, "process.exit(3);");
  assert.deepEqual([code, platform.requests.length], [3, 0]);
  assert.match(errors, /"id":"last"/);
});
