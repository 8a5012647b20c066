"""Another web process on the same engines: it takes calls as lines of JSON and says what it answered, and how fast."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
SHARED = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "JWT_SECRET", "API_KEY_PEPPER")


class Neighbour:
    def __init__(self, config: dict[str, Any], **changes: Any) -> None:
        settings = {"APP_ENV": "test", **{name: config[name] for name in SHARED}, **changes}
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(settings)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin and self._process.stdout:
            self._process.stdin.close()
            self._process.stdout.close()
        self._process.kill()
        self._process.wait()

    def call(self, method: str, path: str, headers: dict[str, str], body: Any = None) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([method, path, headers, body]) + "\n")
        self._process.stdin.flush()
        while line := self._process.stdout.readline():
            if line.startswith("ANSWER "):
                return dict(json.loads(line.removeprefix("ANSWER ")))
        raise AssertionError("the neighbour has died")


def _serve() -> None:
    sys.path.insert(0, str(ROOT))
    from config import load
    from saas_api import create_app

    client = create_app(load(env_file=None, **json.loads(sys.argv[1]))).test_client()
    for line in sys.stdin:
        method, path, headers, body = json.loads(line)
        began = time.monotonic()
        answer = client.open(path, method=method, headers=headers, json=body)
        told = {
            "status": answer.status_code,
            "seconds": time.monotonic() - began,
            "json": answer.json,
            "headers": dict(answer.headers),
        }
        sys.stdout.write(f"ANSWER {json.dumps(told)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
