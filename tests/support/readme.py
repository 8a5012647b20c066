"""Pages whose commands are executed."""

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from saas_api.core.settings import ROOT
from tests.support import forks

END_OF_BLOCK = "--- end of block ---"
BEGINNING = """
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT  # they keep the pipes open
flask() {
  local printed
  printed=$(printf '%%s\\0' "$@" | curl -s --fail-with-body --data-binary @- http://127.0.0.1:%d) || {
    echo "$printed" >&2; return 1
  }
  echo "$printed"
}
"""


class FlaskCommand(BaseHTTPRequestHandler):
    """Runs the command in the body of a request, in a fork, because importing the product takes seconds."""

    environment: Mapping[str, str]

    def do_POST(self) -> None:
        arguments = self.rfile.read(int(self.headers["Content-Length"])).decode().split("\0")[:-1]
        result = forks.run_flask(*arguments, environment=self.environment)
        self.send_response(200 if result.returncode == 0 else 500)
        self.end_headers()
        self.wfile.write((result.stdout if result.returncode == 0 else result.stdout + result.stderr).encode())

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def paste(
    commands: Sequence[str], config: Mapping[str, Any], environment: Mapping[str, str], replaced: Mapping[str, str]
) -> list[str]:
    """Execute blocks in one shell, from the root of the checkout, and return what each printed.

    config: of the product that `flask` commands change
    replaced: texts of the page, such as paths and ports that a test must not use, with its own
    """
    script = f"\necho '{END_OF_BLOCK}'\n".join(commands).replace(".venv/bin/flask", "flask")
    for text in replaced:
        assert text in script, text
    # At once, because what replaces one text may contain another.
    script = (
        re.sub("|".join(map(re.escape, replaced)), lambda match: replaced[match[0]], script) if replaced else script
    )
    with _flask_commands(config) as port:
        output = _run_in_shell(BEGINNING % port + script, environment)
    return output.split(END_OF_BLOCK)


def data(text: str) -> list[Any]:
    """The data of every successful response in a text."""
    responses, decoder, position = [], json.JSONDecoder(), 0
    while (position := text.find('{"success":true', position)) >= 0:
        response, position = decoder.raw_decode(text, position)
        responses.append(response["data"])
    return responses


@contextmanager
def _flask_commands(config: Mapping[str, Any]) -> Iterator[int]:
    handler = type("Handler", (FlaskCommand,), {"environment": forks.engines_of(config)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


def _run_in_shell(script: str, environment: Mapping[str, str], seconds: float = 120) -> str:
    command = ["bash", "-euo", "pipefail", "-c", script]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes) as shell:
        try:
            output, errors = shell.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)  # or its loops would go on after bash is dead
            output, errors = shell.communicate()
            pytest.fail(f"The commands did not end:\n{output}{errors}")
    assert shell.returncode == 0, output + errors
    return str(output)
