export { Client } from "./client.js";
export { ApiError, PlatformUnreachableError, isUnavailable } from "./errors.js";
export { EventBuffer, UnsentEventsError, type EventBufferOptions } from "./events.js";
export type { ClientOptions, PostOptions, RequestOptions } from "./transport.js";
export type * from "./types.js";
export { verifyWebhook, WebhookVerificationError, type WebhookEvent } from "./webhooks.js";
