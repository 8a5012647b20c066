/** An error response of the platform. Rely on `code`; `message` is for a person. */
export class ApiError extends Error {
  override readonly name = "ApiError";

  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly details: Readonly<Record<string, unknown>>,
    /** Quote it when you ask for help; `undefined` when something else than the platform answered. */
    readonly requestId: string | undefined,
    readonly retryAfterSeconds: number | undefined,
  ) {
    super(message);
  }

  /** Whether the platform, or a proxy before it, is not available; the same request may succeed later. */
  get isUnavailable(): boolean {
    return this.status >= 500;
  }

  static async fromResponse(response: Response): Promise<ApiError> {
    const text = await response.text();
    let error: { code?: string; message?: string; details?: Record<string, unknown>; request_id?: string } = {};
    try {
      error = JSON.parse(text).error ?? {};
    } catch {
      // A proxy answered, in HTML.
    }
    return new ApiError(
      response.status,
      error.code ?? `HTTP_${response.status}`,
      error.message ?? `The platform answered with status ${response.status}.`,
      error.details ?? {},
      error.request_id ?? response.headers.get("X-Request-Id") ?? undefined,
      readRetryAfter(response.headers.get("Retry-After")),
    );
  }
}

/** No response arrived: the connection failed, or the time was over. `cause` is what `fetch` threw. */
export class PlatformUnreachableError extends Error {
  override readonly name = "PlatformUnreachableError";
}

/** Whether an error says that the platform cannot be asked at the moment, and not that the request is wrong. */
export function isUnavailable(error: unknown): boolean {
  return error instanceof PlatformUnreachableError || (error instanceof ApiError && error.isUnavailable);
}

function readRetryAfter(value: string | null): number | undefined {
  if (!value) return undefined;
  const seconds = /^\d+$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, seconds) : undefined;
}
