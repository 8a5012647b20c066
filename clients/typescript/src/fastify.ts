import type { FastifyRequest, preHandlerAsyncHookHandler } from "fastify";
import type { Client } from "./client.js";
import { decide, type Route } from "./metering.js";
import type { Verification } from "./types.js";

export type { Route } from "./metering.js";

declare module "fastify" {
  interface FastifyRequest {
    /** Who calls; `undefined` when the request passed because the platform could not be asked. */
    customer?: Verification | undefined;
  }
}

/**
 * A `preHandler` that checks the customer's key before a route's handler, and counts the call.
 *
 * The key comes in `X-API-Key` or as a bearer token. Behind a proxy set `trustProxy`, or keys that are limited to
 * networks are refused.
 */
export function metered(client: Client, route: Route<FastifyRequest> = {}): preHandlerAsyncHookHandler {
  return async (request, reply) => {
    const header = (name: string): string | undefined => {
      const value = request.headers[name];
      return Array.isArray(value) ? value[0] : value;
    };
    const pattern = request.routeOptions.url ?? "/*";
    const decision = await decide(client, route, request, { header, ip: request.ip, method: request.method, pattern });
    reply.headers(decision.headers);
    request.customer = decision.customer;
    if (decision.refusal) return reply.code(decision.refusal.status).send(decision.refusal.body);
  };
}
