import { createServer } from "node:http";

/**
 * A platform whose responses a test decides, for what the real one does only when something is broken.
 *
 * respond: gets { method, path, headers, body } and returns { status, headers, data, error }, or "hang up" to break the connection
 */
export async function startPlatform(respond) {
  const requests = [];
  const server = createServer(async (request, response) => {
    let text = "";
    for await (const piece of request) text += piece;
    const received = {
      method: request.method,
      path: request.url,
      headers: request.headers,
      text,
      body: text ? JSON.parse(text) : undefined,
    };
    requests.push(received);
    const answer = await respond(received, requests.length);
    if (answer === "hang up") return request.socket.destroy();
    const { status = 200, headers = {}, data, error, html } = answer;
    const success = status < 400;
    response.writeHead(status, {
      "Content-Type": html ? "text/html" : "application/json",
      "X-Request-Id": "req_stub",
      ...headers,
    });
    response.end(
      html ??
        JSON.stringify(
          success ? { success, data } : { success, error: { details: {}, request_id: "req_stub", ...error } },
        ),
    );
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    requests,
    close: () => new Promise((resolve) => (server.closeAllConnections(), server.close(resolve))),
  };
}

export const UNAVAILABLE = { status: 503, error: { code: "SERVICE_UNAVAILABLE", message: "Not now." } };
