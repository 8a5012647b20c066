import { Transport, type Answer, type ClientOptions, type PostOptions, type RequestOptions } from "./transport.js";
import type * as types from "./types.js";

/**
 * A client of the platform: of a service with its token, or of a customer with an API key or an access token.
 *
 * Every method rejects with ApiError or PlatformUnreachableError. What failed for a reason that passes is repeated, and
 * counts once.
 */
export class Client {
  readonly #transport: Transport;
  readonly keys: Keys;
  readonly messages: Messages;
  readonly usage: UsageReports;

  constructor(options: ClientOptions) {
    this.#transport = new Transport(options);
    this.keys = new Keys(this.#transport);
    this.messages = new Messages(this.#transport);
    this.usage = new UsageReports(this.#transport);
  }

  /** Check a customer's key and, with a meter, count the call: one decision, all or nothing. */
  async verify(question: types.VerifyIn, options?: RequestOptions): Promise<types.Verification> {
    return (await this.verifyWithId(question, options)).data;
  }

  /** As `verify`, with the id of the request, which belongs into the service's own errors. */
  verifyWithId(question: types.VerifyIn, options?: RequestOptions): Promise<Answer<types.Verification>> {
    const body = question.meter ? withId(exact(question)) : question;
    return this.#transport.requestWithId("POST", "/keys/verify", { ...options, body });
  }

  /**
   * Reserve usage whose quantity is known only afterwards; rejects with a 402, 403 or 429 when there is no room for it.
   */
  hold(hold: types.HoldIn, options?: RequestOptions): Promise<types.Hold> {
    const call = { ...options, body: withId(exact(hold)), is429Final: true };
    return this.#transport.request<types.Hold>("POST", "/holds", call);
  }

  /** Record what was really used, also beyond the hold. */
  settle(holdId: string, settlement: types.SettleIn, options?: RequestOptions): Promise<types.Hold> {
    const path = `/holds/${encodeURIComponent(holdId)}/settle`;
    return this.#transport.request<types.Hold>("POST", path, { ...options, body: exact(settlement) });
  }

  /** End a hold of which nothing was used. */
  release(holdId: string, options?: RequestOptions): Promise<types.Hold> {
    const path = `/holds/${encodeURIComponent(holdId)}/release`;
    return this.#transport.request<types.Hold>("POST", path, options);
  }

  getHold(holdId: string, options?: RequestOptions): Promise<types.Hold> {
    return this.#transport.request<types.Hold>("GET", `/holds/${encodeURIComponent(holdId)}`, options);
  }

  /**
   * Take a usage event back, once.
   *
   * @param eventId its own id, or the platform's `uev_...`
   * @param event where it comes from: the service itself unless given; and its subject, where several have the id
   */
  reverse(eventId: string, event: types.ReverseIn = {}, options?: PostOptions): Promise<types.Reversal> {
    const path = `/events/${encodeURIComponent(eventId)}/reverse`;
    return this.#transport.request<types.Reversal>("POST", path, { ...withKey(options), body: event });
  }

  /**
   * Record usage after the fact; EventBuffer does it in batches.
   *
   * @param events at most 1,000, and 1 MiB. What is wrong with one of them stands in `errors`; the others are recorded.
   */
  record(events: readonly types.UsageEvent[], options?: RequestOptions): Promise<types.RecordedEvents> {
    return this.recordBatch(`[${events.map((event) => JSON.stringify(asCloudEvent(event))).join(",")}]`, options);
  }

  /** As `record`, with a JSON array of CloudEvents. */
  recordBatch(body: string, options?: RequestOptions): Promise<types.RecordedEvents> {
    const text = { contentType: "application/cloudevents-batch+json", body };
    return this.#transport.request<types.RecordedEvents>("POST", "/events", { ...options, text });
  }

  /** Name an organization as the service knows it; null removes the name. */
  setExternalId(
    organizationId: string,
    externalId: string | null,
    options?: RequestOptions,
  ): Promise<types.NamedOrganization> {
    const path = `/organizations/${encodeURIComponent(organizationId)}/external-id`;
    return this.#transport.request("PUT", path, { ...options, body: { external_id: externalId } });
  }
}

/** The customer's API keys; needs an access token. */
export class Keys {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** The key itself is in this answer only. */
  create(key: types.KeyIn, options?: PostOptions): Promise<types.CreatedKey> {
    return this.#transport.request<types.CreatedKey>("POST", "/keys", { ...withKey(options), body: key });
  }

  list(query?: types.KeyQuery, options?: RequestOptions): Promise<types.KeyList> {
    return this.#transport.request<types.KeyList>("GET", "/keys", { ...options, query });
  }

  get(keyId: string, options?: RequestOptions): Promise<types.Key> {
    return this.#transport.request<types.Key>("GET", `/keys/${encodeURIComponent(keyId)}`, options);
  }

  update(keyId: string, changes: types.KeyUpdate, options?: RequestOptions): Promise<types.Key> {
    const call = { ...options, body: changes };
    return this.#transport.request<types.Key>("PATCH", `/keys/${encodeURIComponent(keyId)}`, call);
  }

  /** Replace the secret; the old one is valid for `graceSeconds` more. */
  rotate(keyId: string, graceSeconds = 0, options?: PostOptions): Promise<types.RotatedKey> {
    const call = { ...withKey(options), body: { grace_seconds: graceSeconds } };
    return this.#transport.request<types.RotatedKey>("POST", `/keys/${encodeURIComponent(keyId)}/rotate`, call);
  }

  async revoke(keyId: string, options?: RequestOptions): Promise<void> {
    await this.#transport.request("DELETE", `/keys/${encodeURIComponent(keyId)}`, options);
  }
}

/** Messages of the built-in service; needs an API key. */
export class Messages {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  send(message: types.MessageIn, options?: PostOptions): Promise<types.AcceptedMessage> {
    const call = { ...withKey(options), body: message };
    return this.#transport.request<types.AcceptedMessage>("POST", "/messages/send", call);
  }

  list(query?: types.MessageQuery, options?: RequestOptions): Promise<types.MessageList> {
    return this.#transport.request<types.MessageList>("GET", "/messages", { ...options, query });
  }

  get(messageId: string, options?: RequestOptions): Promise<types.Message> {
    const path = `/messages/${encodeURIComponent(messageId)}`;
    return this.#transport.request<types.Message>("GET", path, options);
  }

  cancel(messageId: string, options?: PostOptions): Promise<types.Message> {
    const path = `/messages/${encodeURIComponent(messageId)}/cancel`;
    return this.#transport.request<types.Message>("POST", path, withKey(options));
  }
}

/** What the customer has used; needs an API key with `usage:read`, or an access token. */
export class UsageReports {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  get(query?: types.UsageQuery, options?: RequestOptions): Promise<types.Usage> {
    return this.#transport.request<types.Usage>("GET", "/usage", { ...options, query });
  }

  timeseries(query?: types.TimeseriesQuery, options?: RequestOptions): Promise<types.Timeseries> {
    return this.#transport.request<types.Timeseries>("GET", "/usage/timeseries", { ...options, query });
  }
}

function withKey(options: PostOptions | undefined): PostOptions {
  return { ...options, idempotencyKey: options?.idempotencyKey ?? crypto.randomUUID() };
}

/** Write a fraction as a decimal string, because the platform takes no floating point numbers. */
function exact<Body extends { quantity?: types.Quantity }>(body: Body): Body {
  const { quantity } = body;
  const isFraction = typeof quantity === "number" && !Number.isInteger(quantity);
  return isFraction ? { ...body, quantity: quantity.toFixed(6) } : body;
}

function withId<Body extends { event_id?: string | null }>(body: Body): Body {
  return { ...body, event_id: body.event_id ?? crypto.randomUUID() };
}

/** The event as it is sent: with an id and its time, so that a repeat is the same event. */
export function asCloudEvent(event: types.UsageEvent): types.UsageEvent {
  const id = event.id ?? crypto.randomUUID();
  const time = event.time ?? new Date();
  return Object.assign({ specversion: "1.0" }, event, { id, time }, event.data && { data: exact(event.data) });
}
