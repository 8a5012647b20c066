import { asCloudEvent, type Client } from "./client.js";
import { ApiError } from "./errors.js";
import { sleep } from "./transport.js";
import type { UsageEvent } from "./types.js";

const MAX_BATCH_EVENTS = 1_000;
const MAX_BATCH_BYTES = 1024 * 1024;
const MAX_WAIT_MS = 30_000;

export interface EventBufferOptions {
  /** How long an event waits at most for others, in milliseconds; 1,000 unless given. */
  flushIntervalMs?: number;
  /** How many unsent events there may be before `record` waits; 10,000 unless given. */
  maxBuffered?: number;
  /** How long to try to send the rest when the process ends, in milliseconds; 10,000 unless given. */
  exitTimeoutMs?: number;
  /** An event is wrong, and was not recorded. Written to stderr unless given. */
  onRejected?: (event: UsageEvent, error: { code: string; message: string }) => void;
  /** A batch could not be sent. It is sent again later, so this is for logs. */
  onError?: (error: unknown) => void;
  /**
   * The process ends, and these could not be sent: store them. Written to stderr, a line of JSON each, unless given.
   * Called at exit, so it must be synchronous.
   */
  onUnsent?: (events: UsageEvent[], error: unknown) => void;
}

/** The buffer was closed, and `events` could not be sent. */
export class UnsentEventsError extends Error {
  override readonly name = "UnsentEventsError";

  constructor(
    readonly events: UsageEvent[],
    cause: unknown,
  ) {
    super(`${events.length} usage events could not be sent`, { cause });
  }
}

interface Entry {
  event: UsageEvent;
  /** What is sent, byte for byte the same at every attempt. */
  text: string;
  bytes: number;
}

/**
 * Collects usage events and sends them in batches of at most 1,000 and 1 MiB.
 *
 * An event leaves the buffer when the platform has answered for it. A batch that failed is sent again with the same
 * ids, so its events count once. The buffer is flushed when the process ends by itself, by SIGTERM or by SIGINT; what
 * cannot be sent then goes to `onUnsent`.
 */
export class EventBuffer {
  readonly #client: Client;
  readonly #options: EventBufferOptions;
  readonly #maxBuffered: number;
  readonly #processListeners: [string, (...args: unknown[]) => void][] = [];
  #entries: Entry[] = [];
  #waiting: (() => void)[] = [];
  #added = 0;
  #done = 0;
  #failures = 0;
  #sending: Promise<void> | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isClosed = false;

  constructor(client: Client, options: EventBufferOptions = {}) {
    this.#client = client;
    this.#options = options;
    this.#maxBuffered = options.maxBuffered ?? 10_000;
    this.#listenToProcess();
  }

  /** How many events are not yet sent. */
  get unsent(): number {
    return this.#entries.length;
  }

  /**
   * Take an event. It is in the buffer at once; the promise is fulfilled when the buffer has room for the next one.
   *
   * Rejects with TypeError for an event of more than 1 MiB.
   */
  async record(event: UsageEvent): Promise<void> {
    if (this.#isClosed) throw new Error("The buffer is closed.");
    const sent = asCloudEvent(event);
    const text = JSON.stringify(sent);
    const bytes = new TextEncoder().encode(text).length;
    if (bytes + 2 > MAX_BATCH_BYTES) throw new TypeError("The event is larger than 1 MiB.");
    this.#entries.push({ event: sent, text, bytes });
    this.#added++;
    this.#schedule();
    if (this.#entries.length >= this.#maxBuffered) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  /** Send every event that was added before; rejects when that failed, and keeps the events. */
  async flush(): Promise<void> {
    const target = this.#added;
    while (this.#done < target) await this.#sendBatch();
  }

  /** Send the rest and take no more; rejects with UnsentEventsError when that does not succeed within `timeoutMs`. */
  async close(timeoutMs = this.#exitTimeoutMs): Promise<void> {
    this.#isClosed = true;
    try {
      await this.#deliver(timeoutMs);
    } finally {
      this.#stopListening();
    }
  }

  get #exitTimeoutMs(): number {
    return this.#options.exitTimeoutMs ?? 10_000;
  }

  /** Flush until it succeeds; throws UnsentEventsError with the events, which are then the caller's. */
  async #deliver(timeoutMs: number): Promise<void> {
    const endsAt = Date.now() + timeoutMs;
    while (this.#entries.length) {
      try {
        await Promise.race([this.flush(), expire(endsAt)]);
      } catch (error) {
        const waitMs = Math.min(this.#waitMs(), endsAt - Date.now());
        if (waitMs <= 0) throw new UnsentEventsError(this.#takeAll(), error);
        await sleep(waitMs);
      }
    }
  }

  #schedule(): void {
    const isDue = this.#entries.length >= MAX_BATCH_EVENTS && !this.#failures;
    if (this.#sending || (this.#timer && !isDue)) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#sendBatch().catch(() => {}), isDue ? 0 : this.#waitMs());
    // The process may end meanwhile; `beforeExit` sends the rest.
    (this.#timer as { unref?: () => void }).unref?.();
  }

  #waitMs(): number {
    const interval = this.#options.flushIntervalMs ?? 1_000;
    return this.#failures
      ? Math.min(MAX_WAIT_MS, Math.max(interval, 200) * 2 ** Math.min(this.#failures - 1, 10))
      : interval;
  }

  /** Send one batch; calls at the same time share it. */
  #sendBatch(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#sending ??= this.#sendNext().finally(() => {
      this.#sending = undefined;
      if (this.#entries.length) this.#schedule();
    });
    return this.#sending;
  }

  async #sendNext(): Promise<void> {
    const batch = this.#nextBatch();
    try {
      await this.#send(batch);
      this.#failures = 0;
    } catch (error) {
      this.#failures++;
      this.#options.onError?.(error);
      throw error;
    }
    if (this.#entries[0] !== batch[0]) return; // given up meanwhile
    this.#entries.splice(0, batch.length);
    this.#done += batch.length;
    if (this.#entries.length < this.#maxBuffered) for (const resolve of this.#waiting.splice(0)) resolve();
  }

  #nextBatch(): Entry[] {
    let bytes = 2;
    const end = this.#entries.findIndex((entry, index) => {
      bytes += entry.bytes + 1;
      return index >= MAX_BATCH_EVENTS || bytes > MAX_BATCH_BYTES;
    });
    return this.#entries.slice(0, end < 0 ? undefined : end);
  }

  async #send(batch: Entry[]): Promise<void> {
    try {
      const result = await this.#client.recordBatch(`[${batch.map(({ text }) => text).join(",")}]`);
      for (const error of result.errors) this.#reject(batch[error.index], error);
    } catch (error) {
      // One event made the whole batch unreadable: find it.
      const isUnreadable = error instanceof ApiError && [400, 413, 422].includes(error.status);
      if (!isUnreadable) throw error;
      if (batch.length === 1) return this.#reject(batch[0], error);
      const middle = Math.ceil(batch.length / 2);
      await this.#send(batch.slice(0, middle));
      await this.#send(batch.slice(middle));
    }
  }

  #reject(entry: Entry | undefined, error: { code: string; message: string }): void {
    if (!entry) return;
    if (this.#options.onRejected) this.#options.onRejected(entry.event, error);
    else console.error(`usage event was rejected: ${error.code}: ${error.message} ${entry.text}`);
  }

  #takeAll(): UsageEvent[] {
    const events = this.#entries.map(({ event }) => event);
    this.#done = this.#added;
    this.#entries = [];
    return events;
  }

  #reportUnsent(events: UsageEvent[], error: unknown): void {
    if (this.#options.onUnsent) return this.#options.onUnsent(events, error);
    for (const event of events) console.error(`usage event was not sent: ${JSON.stringify(event)}`);
  }

  #listenToProcess(): void {
    if (typeof process === "undefined" || typeof process.on !== "function") return;
    const listen = (name: string, listener: () => void): void => {
      process.on(name, listener);
      this.#processListeners.push([name, listener]);
    };
    const deliver = (): Promise<void> =>
      this.#deliver(this.#exitTimeoutMs).catch((error: UnsentEventsError) => {
        process.exitCode = 1;
        this.#reportUnsent(error.events, error.cause);
      });
    listen("beforeExit", () => void deliver());
    for (const signal of ["SIGTERM", "SIGINT"]) {
      listen(
        signal,
        () =>
          void deliver().then(() => {
            this.#stopListening(signal);
            // Nobody else handles the signal: let it do what it would have done without this buffer.
            if (!process.listenerCount(signal)) process.kill(process.pid, signal);
          }),
      );
    }
    // process.exit(), or an exception that nobody caught.
    listen("exit", () => {
      if (this.#entries.length) this.#reportUnsent(this.#takeAll(), new Error("The process exited."));
    });
  }

  #stopListening(only?: string): void {
    for (const [name, listener] of this.#processListeners) if (!only || name === only) process.off(name, listener);
  }
}

function expire(at: number): Promise<never> {
  return new Promise((_, reject) => {
    const timer = setTimeout(() => reject(new Error("The time was over.")), Math.max(0, at - Date.now()));
    (timer as { unref?: () => void }).unref?.();
  });
}
