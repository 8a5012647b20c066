import type { components, operations } from "./openapi.js";

type Schemas = components["schemas"];
/** An answer has all of its properties; those without a value are null. */
type Complete<Value> = Value extends object ? { [Name in keyof Value]-?: Complete<Value[Name]> } : Value;
type Answer<Name extends keyof Schemas> = Complete<Schemas[Name]>;
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
export type Verification = Pick<Answer<"VerificationOut">, "valid" | "code"> &
  Partial<Omit<Answer<"VerificationOut">, "units">> & { units?: Quantity };
export type VerifyCode = Verification["code"];
export type RateLimit = NonNullable<Verification["limits"]>[number];

/** A hold for a key or an organization; `quantity` is the most that it may come to. */
export type HoldIn = Metered<Schemas["HoldIn"]> & { quantity: Quantity };
export type Hold = Answer<"HoldOut">;

/** What was really used. */
export type SettleIn = Metered<Schemas["SettleIn"]> & { quantity: Quantity };

/** Usage after the fact. The id is a random one unless given, the time now. `type` is the code of the meter. */
export type UsageEvent = Omit<Schemas["UsageEventIn"], "id" | "time" | "data" | "specversion"> & {
  id?: string;
  time?: string | Date;
  data?: { quantity?: Quantity; [property: string]: unknown };
};
export type RecordedEvents = Answer<"IngestionOut">;
export type ReverseIn = Schemas["ReverseIn"];
export type Reversal = Answer<"ReversalOut">;
export type NamedOrganization = Answer<"OrganizationEnvelope">;

export type Key = Answer<"KeyOut">;
export type CreatedKey = Answer<"CreatedKeyOut">;
export type KeyIn = Schemas["KeyIn"];
export type KeyUpdate = Schemas["KeyUpdate"];
export type RotatedKey = Answer<"RotatedKeyOut">;
export type KeyList = Answer<"PageOfKeys">;
export type KeyQuery = Query<"list_keys">;
export type Message = Answer<"MessageOut">;
export type MessageIn = Schemas["MessageIn"];
export type AcceptedMessage = Answer<"AcceptedMessageOut">;
export type MessageList = Answer<"PageOfMessages">;
export type MessageQuery = Query<"list_messages">;
export type Usage = Answer<"UsageOut">;
export type UsageQuery = Query<"get_usage">;
export type Timeseries = Answer<"TimeseriesOut">;
export type TimeseriesQuery = Query<"get_usage_timeseries">;
