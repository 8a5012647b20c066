import { ApiError, PlatformUnreachableError } from "./errors.js";

export interface ClientOptions {
  /** Where the platform is, such as `https://platform.example`. */
  baseUrl: string;
  /** A service token (`svc_...`), an API key (`sk_...`) or an access token of a user. */
  token: string;
  /** Time for one attempt, in milliseconds; 10,000 unless given. */
  timeoutMs?: number;
  /** Attempts after the first; 3 unless given. */
  maxRetries?: number;
  /**
   * The longest wait between two attempts, in milliseconds; 30,000 unless given. A longer `Retry-After` ends the call
   * with its error.
   */
  maxWaitMs?: number;
  /** Another implementation of `fetch`. */
  fetch?: typeof fetch;
}

export interface RequestOptions {
  timeoutMs?: number;
  maxRetries?: number;
  /** Ends the call, including its retries. */
  signal?: AbortSignal;
}

export interface PostOptions extends RequestOptions {
  /** A random one unless given. The same key and body are carried out once, within 24 hours. */
  idempotencyKey?: string;
}

export interface Call extends PostOptions {
  query?: object | undefined;
  body?: unknown;
  /** A body that is already text, and its content type. */
  text?: { contentType: string; body: string };
  /** Whether a 429 is an answer for the caller, rather than a reason to wait. */
  is429Final?: boolean;
}

export interface Answer<Data> {
  data: Data;
  requestId: string | undefined;
}

const FIRST_WAIT_MS = 200;

/** Sends requests, and repeats those that failed for a reason that passes. */
export class Transport {
  readonly #url: string;
  readonly #token: string;
  readonly #options: ClientOptions;

  constructor(options: ClientOptions) {
    const { protocol, origin, pathname } = new URL(options.baseUrl);
    if (protocol !== "https:" && protocol !== "http:")
      throw new TypeError("baseUrl must begin with https:// or http://");
    if (!options.token) throw new TypeError("token is missing");
    this.#url = origin + pathname.replace(/\/+$/, "");
    this.#token = options.token;
    this.#options = options;
  }

  /** Return `data` of the response. */
  async request<Data>(method: string, path: string, call?: Call): Promise<Data> {
    return (await this.requestWithId<Data>(method, path, call)).data;
  }

  async requestWithId<Data>(method: string, path: string, call: Call = {}): Promise<Answer<Data>> {
    const request = this.#request(method, path, call);
    const maxRetries = call.maxRetries ?? this.#options.maxRetries ?? 3;
    for (let retry = 0; ; retry++) {
      const result = await this.#attempt<Data>(request, call);
      if (!(result instanceof Error)) return result;
      const waitMs = retry < maxRetries ? this.#waitMs(result, retry, call) : undefined;
      if (waitMs === undefined) throw result;
      await sleep(waitMs, call.signal);
    }
  }

  #request(method: string, path: string, call: Call): { url: string; init: RequestInit } {
    const headers: Record<string, string> = { Authorization: `Bearer ${this.#token}`, Accept: "application/json" };
    let body: string | undefined;
    if (call.text) {
      headers["Content-Type"] = call.text.contentType;
      body = call.text.body;
    } else if (method !== "GET" && method !== "DELETE") {
      headers["Content-Type"] = "application/json";
      body = JSON.stringify(call.body ?? {});
    }
    if (call.idempotencyKey) headers["Idempotency-Key"] = call.idempotencyKey;
    const url = `${this.#url}/api/v1${path}${queryString(call.query)}`;
    // Of a redirected request the token would be lost, or sent to somebody else.
    return { url, init: { method, headers, redirect: "manual", ...(body !== undefined && { body }) } };
  }

  async #attempt<Data>(
    request: { url: string; init: RequestInit },
    call: Call,
  ): Promise<Answer<Data> | ApiError | PlatformUnreachableError> {
    const timeoutMs = call.timeoutMs ?? this.#options.timeoutMs ?? 10_000;
    const timeout = AbortSignal.timeout(timeoutMs);
    const signal = call.signal ? AbortSignal.any([call.signal, timeout]) : timeout;
    try {
      const response = await (this.#options.fetch ?? fetch)(request.url, { ...request.init, signal });
      if (!response.ok) return await ApiError.fromResponse(response);
      const { data } = (await response.json()) as { data: Data };
      return { data, requestId: response.headers.get("X-Request-Id") ?? undefined };
    } catch (cause) {
      call.signal?.throwIfAborted();
      const reason = timeout.aborted ? `no response within ${timeoutMs} ms` : "no connection, or it broke";
      return new PlatformUnreachableError(`The platform does not answer: ${reason}.`, { cause });
    }
  }

  /** How long to wait before the next attempt; `undefined` when there is none. */
  #waitMs(error: ApiError | PlatformUnreachableError, retry: number, call: Call): number | undefined {
    // Half of the wait is random, so that clients that failed together do not return together.
    const ownWaitMs = FIRST_WAIT_MS * 2 ** retry * (0.5 + Math.random() / 2);
    if (error instanceof PlatformUnreachableError) return ownWaitMs;
    const wanted = error.retryAfterSeconds === undefined ? undefined : error.retryAfterSeconds * 1000;
    if (wanted !== undefined && wanted > (this.#options.maxWaitMs ?? 30_000)) return undefined;
    if (error.isUnavailable || error.status === 408 || error.code === "IDEMPOTENCY_IN_PROGRESS") {
      return Math.max(wanted ?? 0, ownWaitMs);
    }
    // A 429 without Retry-After is a used-up quota; waiting does not help.
    return error.status === 429 && !call.is429Final ? wanted : undefined;
  }
}

function queryString(query: object | undefined): string {
  const given = Object.entries(query ?? {}).filter(([, value]) => value !== undefined && value !== null);
  return given.length ? `?${new URLSearchParams(given.map(([name, value]) => [name, String(value)]))}` : "";
}

/** Wait; rejects with the signal's reason as soon as it is aborted. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, ms);
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort, { once: true });
  });
}
