import type { Context, MiddlewareHandler } from "hono";
import { routePath } from "hono/route";
import type { Client } from "./client.js";
import { decide, type Route } from "./metering.js";
import type { Verification } from "./types.js";

/** What a route needs; `ip` reads the customer's address where it is not that of the connection to Node. */
export interface HonoRoute extends Route<Context> {
  ip?: (context: Context) => string | undefined;
}

/** Variables of the context: who calls; `undefined` when the request passed because the platform could not be asked. */
export type Metered = { Variables: { customer: Verification | undefined } };

/**
 * Check the customer's key before a route's handler, and count the call.
 *
 * The key comes in `X-API-Key` or as a bearer token.
 */
export function metered(client: Client, route: HonoRoute = {}): MiddlewareHandler<Metered> {
  return async (context, next) => {
    const incoming = {
      header: (name: string) => context.req.header(name),
      ip: (route.ip ?? connectionAddress)(context),
      method: context.req.method,
      pattern: routePath(context, -1),
    };
    const decision = await decide(client, route, context, incoming);
    for (const [name, value] of Object.entries(decision.headers)) context.header(name, value);
    context.set("customer", decision.customer);
    if (decision.refusal) return context.json(decision.refusal.body, decision.refusal.status as 403);
    await next();
  };
}

function connectionAddress(context: Context): string | undefined {
  // As @hono/node-server has it.
  return context.env?.incoming?.socket?.remoteAddress;
}
