import type { Request, RequestHandler } from "express";
import type { Client } from "./client.js";
import { decide, type Route } from "./metering.js";
import type { Verification } from "./types.js";

export type { Route } from "./metering.js";

declare global {
  // eslint-disable-next-line @typescript-eslint/no-namespace
  namespace Express {
    interface Request {
      /** Who calls; `undefined` when the request passed because the platform could not be asked. */
      customer?: Verification | undefined;
    }
  }
}

/**
 * Check the customer's key before a route's handler, and count the call.
 *
 * The key comes in `X-API-Key` or as a bearer token. Behind a proxy set `trust proxy`, or keys that are limited to
 * networks are refused.
 */
export function metered(client: Client, route: Route<Request> = {}): RequestHandler {
  return (request, response, next) => {
    const incoming = {
      header: (name: string) => request.get(name),
      ip: request.ip,
      method: request.method,
      // Before a router the route is not known yet, and a path would be a line of its own in reports.
      pattern: request.baseUrl + (request.route ? String(request.route.path) : "/*"),
    };
    decide(client, route, request, incoming)
      .then((decision) => {
        response.set(decision.headers);
        request.customer = decision.customer;
        if (decision.refusal) response.status(decision.refusal.status).json(decision.refusal.body);
        else next();
      })
      .catch(next);
  };
}
