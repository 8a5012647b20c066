/** What the middlewares share: the question that a request asks, and the response to one that may not go on. */

import type { Client } from "./client.js";
import { isUnavailable } from "./errors.js";
import type { Answer } from "./transport.js";
import type { Quantity, RateLimit, Verification, VerifyIn } from "./types.js";

/** What a route needs of a customer's key, and what its calls cost. */
export interface Route<Request> {
  /** Scope that the key needs, such as `lookups:read`. */
  permission?: string;
  /** Code of the meter that counts the calls; without it nothing is recorded. */
  meter?: string;
  /** What a call adds to the meter, or a function of the request; 1 unless given. */
  quantity?: Quantity | ((request: Request) => Quantity | Promise<Quantity>);
  /** Values of the meter's dimensions, or a function of the request. */
  dimensions?: Record<string, string> | ((request: Request) => Record<string, string>);
  /** How usage by endpoint names the route, such as `POST /v1/lookups`; its method and pattern unless given. */
  endpoint?: string;
  /** Let every request pass while the platform cannot be asked, unlimited and unbilled; otherwise they get 503. */
  failOpen?: boolean;
}

/** A request, as a framework's middleware describes it. */
export interface Incoming {
  header: (name: string) => string | undefined;
  ip: string | undefined;
  method: string;
  /** Pattern of the route, such as `/v1/lookups/:number`. */
  pattern: string;
}

/** Whether a request may go on, and the headers of its response. */
export interface Decision {
  /** Of the customer; `undefined` when the request passes because the platform cannot be asked. */
  customer: Verification | undefined;
  headers: Record<string, string>;
  refusal?: { status: number; body: object };
}

const MAX_KEY_LENGTH = 255;
const MAX_PATTERN_LENGTH = 200;
const ASK_OPTIONS = { timeoutMs: 3_000, maxRetries: 1 };
const WINDOW_SECONDS = 60;
const REFUSALS: Record<string, { status: number; code?: string; message: string }> = {
  NOT_FOUND: { status: 401, code: "INVALID_API_KEY", message: "This API key is not valid." },
  INSUFFICIENT_SCOPE: { status: 403, message: "This API key lacks the scope for that." },
  IP_NOT_ALLOWED: { status: 403, message: "This API key may not be used from your address." },
  ORGANIZATION_SUSPENDED: {
    status: 403,
    message: "This organization is suspended; if invoices are overdue, paying them ends that at once.",
  },
  SUBSCRIPTION_RESTRICTED: { status: 402, message: "An invoice is overdue; pay it to go on." },
  SPEND_CAP_REACHED: { status: 402, message: "The spend cap of this billing period is reached; raise it to go on." },
  QUOTA_EXCEEDED: { status: 429, message: "The quota of this billing period is used up." },
  RATE_LIMITED: { status: 429, code: "RATE_LIMIT_EXCEEDED", message: "Too many requests; slow down." },
};

/**
 * Decide on a request.
 *
 * Throws what the service itself has to mend: a wrong service token, an unknown meter, a bad quantity.
 */
export async function decide<Request>(
  client: Client,
  route: Route<Request>,
  request: Request,
  incoming: Incoming,
): Promise<Decision> {
  const key = readKey(incoming);
  if (!key) return refuse(401, "MISSING_API_KEY", "Send an API key: X-API-Key: <key>.");
  if (key.length > MAX_KEY_LENGTH) return answer({ data: { valid: false, code: "NOT_FOUND" }, requestId: undefined });
  try {
    return answer(await client.verifyWithId(await question(key, route, request, incoming), ASK_OPTIONS));
  } catch (error) {
    if (!isUnavailable(error)) throw error;
    if (route.failOpen) return { customer: undefined, headers: {} };
    const refusal = refuse(503, "SERVICE_UNAVAILABLE", "The service is not available right now; try again shortly.");
    return { ...refusal, headers: { "Retry-After": "1" } };
  }
}

async function question<Request>(
  key: string,
  route: Route<Request>,
  request: Request,
  incoming: Incoming,
): Promise<VerifyIn> {
  const { quantity, dimensions } = route;
  return {
    key,
    endpoint: route.endpoint ?? `${incoming.method} ${encodeURI(incoming.pattern).slice(0, MAX_PATTERN_LENGTH)}`,
    ...(isAddress(incoming.ip) && { ip: incoming.ip }),
    ...(route.permission && { permission: route.permission }),
    ...(route.meter && { meter: route.meter }),
    ...(quantity !== undefined && { quantity: typeof quantity === "function" ? await quantity(request) : quantity }),
    ...(dimensions && { dimensions: typeof dimensions === "function" ? dimensions(request) : dimensions }),
  };
}

/** Whether a text looks like an IP address; a server on a Unix socket has none. */
function isAddress(text: string | undefined): text is string {
  return /^[\da-f.:]+$/i.test(text ?? "");
}

function readKey(incoming: Incoming): string | undefined {
  return incoming.header("x-api-key") ?? /^Bearer +(\S+)$/i.exec(incoming.header("authorization") ?? "")?.[1];
}

function answer({ data: customer, requestId }: Answer<Verification>): Decision {
  const headers = rateLimitHeaders(customer.limits ?? []);
  if (customer.valid) return { customer, headers };
  const { status, code, message } = REFUSALS[customer.code] ?? { status: 403, message: "This call is not allowed." };
  const waitSeconds = customer.retry_after_seconds ?? undefined;
  const details = { ...customer.details, ...(waitSeconds !== undefined && { retry_after_seconds: waitSeconds }) };
  if (waitSeconds !== undefined) headers["Retry-After"] = String(Math.ceil(waitSeconds));
  const refusal = refuse(status, code ?? customer.code, message, details, requestId);
  return { ...refusal, customer, headers: { ...refusal.headers, ...headers } };
}

function refuse(status: number, code: string, message: string, details: object = {}, requestId?: string): Decision {
  const error = { code, message, details, request_id: requestId ?? null };
  return {
    customer: undefined,
    headers: status === 401 ? { "WWW-Authenticate": "Bearer" } : {},
    refusal: { status, body: { success: false, error } },
  };
}

/** Headers of the limit with the fewest remaining requests, as the platform's own responses have them. */
function rateLimitHeaders(limits: RateLimit[]): Record<string, string> {
  const [tightest] = [...limits].sort((one, other) => one.remaining - other.remaining);
  if (!tightest) return {};
  const resetAtMs = Date.parse(tightest.reset_at);
  const seconds = Math.max(0, Math.ceil((resetAtMs - Date.now()) / 1000));
  return {
    "X-RateLimit-Limit": String(tightest.limit),
    "X-RateLimit-Remaining": String(tightest.remaining),
    "X-RateLimit-Reset": String(Math.ceil(resetAtMs / 1000)),
    "RateLimit-Policy": limits.map(({ name, limit }) => `"${name}";q=${limit};w=${WINDOW_SECONDS}`).join(", "),
    RateLimit: `"${tightest.name}";r=${tightest.remaining};t=${seconds}`,
  };
}
