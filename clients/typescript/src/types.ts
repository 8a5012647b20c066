import type { components, operations } from "./openapi.js";

type Schemas = components["schemas"];
type Query<Name extends keyof operations> = operations[Name] extends { parameters: { query?: infer Given } }
  ? NonNullable<Given>
  : never;

/**
 * A quantity: a whole number, or a decimal string with at most six decimals. A number with decimals is rounded to six.
 */
export type Quantity = number | string;
type Metered<Body> = Omit<Body, "quantity" | "dimensions"> & {
  quantity?: Quantity;
  dimensions?: Record<string, string>;
};

/** A question about a customer's key. `ip` is the customer's address; without a `meter` nothing is recorded. */
export type VerifyIn = Metered<Schemas["VerificationIn"]>;

/**
 * What is known of a customer's key, and whether the call may go on. All but `valid` and `code` is there when the key
 * was found.
 */
export type Verification = Schemas["VerificationOut"];
export type VerifyCode = Verification["code"];
export type RateLimit = NonNullable<Verification["limits"]>[number];

/** A hold for a key or an organization; `quantity` is the most that it may come to. */
export type HoldIn = Metered<Schemas["HoldIn"]> & { quantity: Quantity };
export type Hold = Schemas["HoldOut"];

/** What was really used. */
export type SettleIn = Metered<Schemas["SettleIn"]> & { quantity: Quantity };

/** Usage after the fact. The id is a random one unless given, the time now. `type` is the code of the meter. */
export type UsageEvent = Omit<Schemas["UsageEventIn"], "id" | "time" | "data" | "specversion"> & {
  id?: string;
  time?: string | Date;
  data?: { quantity?: Quantity; [property: string]: unknown };
};
export type RecordedEvents = Schemas["IngestionOut"];
export type ReverseIn = Schemas["ReverseIn"];
export type Reversal = Schemas["ReversalOut"];
export type NamedOrganization = Schemas["OrganizationEnvelope"];

export type Key = Schemas["KeyOut"];
export type CreatedKey = Schemas["CreatedKeyOut"];
export type KeyIn = Schemas["KeyIn"];
export type KeyUpdate = Schemas["KeyUpdate"];
export type RotatedKey = Schemas["RotatedKeyOut"];
export type KeyList = Schemas["PageOfKeys"];
export type KeyQuery = Query<"list_keys">;
export type Message = Schemas["MessageOut"];
export type MessageIn = Schemas["MessageIn"];
export type AcceptedMessage = Schemas["AcceptedMessageOut"];
export type MessageList = Schemas["PageOfMessages"];
export type MessageQuery = Query<"list_messages">;
export type Usage = Schemas["UsageOut"];
export type UsageQuery = Query<"get_usage">;
export type Timeseries = Schemas["TimeseriesOut"];
export type TimeseriesQuery = Query<"get_usage_timeseries">;
