"""A program that knows nothing of keys, limits and bills."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Lookups(BaseHTTPRequestHandler):
    """Answers GET /v1/lookups/{number}."""

    def do_GET(self) -> None:
        number = self.path.rpartition("/")[2]
        body = json.dumps({"number": number, "country": "NG" if number.startswith("+234") else None}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", 9001), Lookups).serve_forever()
