/** An event as it arrives at an endpoint; `data` is the object as its GET returns it. */
export interface WebhookEvent {
  id: string;
  type: string;
  timestamp: string;
  mode: "live" | "test";
  organization_id: string;
  data: Record<string, unknown>;
}

/** The request was not signed with the secret, or is too old. */
export class WebhookVerificationError extends Error {
  override readonly name = "WebhookVerificationError";
}

const TOLERANCE_SECONDS = 300;

/**
 * Return the event of a webhook request; rejects with WebhookVerificationError unless the request was signed with the
 * secret.
 *
 * @param secret the endpoint's `whsec_...`
 * @param headers of the request, as a `Headers` or as Node's object with names in lower case
 * @param body the bytes as they arrived, before a framework parsed them
 */
export async function verifyWebhook(
  secret: string,
  headers: Headers | Record<string, string | string[] | undefined>,
  body: string | Uint8Array,
): Promise<WebhookEvent> {
  const header = (name: string): string => {
    const value = headers instanceof Headers ? headers.get(name) : headers[name];
    return (Array.isArray(value) ? value[0] : value) ?? "";
  };
  const [id, sentAt] = [header("webhook-id"), header("webhook-timestamp")];
  if (!/^\d+$/.test(sentAt) || Math.abs(Date.now() / 1000 - Number(sentAt)) > TOLERANCE_SECONDS) {
    throw new WebhookVerificationError("The request is too old, or from the future.");
  }
  const bytes = typeof body === "string" ? new TextEncoder().encode(body) : body;
  const start = new TextEncoder().encode(`${id}.${sentAt}.`);
  const signed = new Uint8Array(start.length + bytes.length);
  signed.set(start);
  signed.set(bytes, start.length);

  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const secretBytes = decodeBase64(secret.replace(/^whsec_/, ""));
  if (!secretBytes?.length) throw new TypeError("secret is not whsec_ and base64");
  const key = await crypto.subtle.importKey("raw", secretBytes, algorithm, false, ["verify"]);
  for (const candidate of header("webhook-signature").split(" ")) {
    const signature = candidate.startsWith("v1,") ? decodeBase64(candidate.slice(3)) : undefined;
    // Compares in constant time.
    if (signature && (await crypto.subtle.verify("HMAC", key, signature, signed))) {
      return JSON.parse(new TextDecoder().decode(bytes)) as WebhookEvent;
    }
  }
  throw new WebhookVerificationError("The request was not signed with this secret.");
}

function decodeBase64(text: string): Uint8Array<ArrayBuffer> | undefined {
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch {
    return undefined;
  }
}
