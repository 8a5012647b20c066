"""Clients that send messages with an Idempotency-Key, repeat those without a response, and record the responses."""

import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import requests

from tests.faults.stack import Stack
from tests.support.http_receiver import Receiver

PASSWORD = "correct horse battery"
RECIPIENTS = ("+2348012345678",) * 9 + ("+15005550001",)


@dataclass(frozen=True)
class AcceptedMessage:
    """A message whose acceptance a client received."""

    tenant: str
    key: str
    mode: str
    to: str
    segments: int
    message_id: str


@dataclass
class Tenant:
    """An organization with its keys by mode, and the secrets of its endpoints by URL and mode."""

    name: str
    organization_id: str
    token: str
    keys: dict[str, str]
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)


def sign_up(stack: Stack, name: str, receivers: Sequence[Receiver] = ()) -> Tenant:
    """Sign up an organization with a key of each mode, and an endpoint of each mode for each receiver."""
    body = {"organization_name": name, "email": f"owner@{name}.example", "password": PASSWORD}
    account = _post(stack, "/auth/register", body, {}).json()["data"]
    bearer = {"Authorization": f"Bearer {account['token']}"}
    keys = {
        mode: _post(stack, "/keys", {"name": mode, "mode": mode}, bearer).json()["data"]["key"]
        for mode in ("live", "test")
    }
    tenant = Tenant(name, account["organization"]["id"], account["token"], keys)
    for receiver in receivers:
        endpoint = {"url": receiver.url, "event_types": ["message.delivered", "message.failed"]}
        tenant.secrets[receiver.url] = {
            mode: _post(stack, "/webhooks/endpoints", {**endpoint, "mode": mode}, bearer).json()["data"]["secret"]
            for mode in keys
        }
    return tenant


def create_service(stack: Stack, name: str) -> str:
    """Create a service and return its token."""
    command = [sys.executable, "-m", "flask", "services", "create", name, "--json"]
    environment = {**os.environ, **stack.settings}
    done = subprocess.run(command, cwd=stack.root, env=environment, capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout)["token"])


def _post(stack: Stack, path: str, body: Any, headers: dict[str, str]) -> requests.Response:
    response = requests.post(f"{stack.url}/api/v1{path}", json=body, headers=headers, timeout=15)
    assert response.ok, response.text
    return response


@dataclass
class Load:
    """Threads that send until they are stopped or have sent `most` messages."""

    stack: Stack
    tenants: Sequence[Tenant]
    threads: int = 4
    most: int = 1_000_000
    pause: float = 0.0
    prefix: str = "load"
    journal: list[AcceptedMessage] = field(default_factory=list)
    statuses: list[tuple[int, float]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    replayed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self._random = random.Random(7)
        self._workers = [threading.Thread(target=self._run, daemon=True) for _ in range(self.threads)]

    def __enter__(self) -> Self:
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for worker in self._workers:
            worker.join(120)
        assert not any(worker.is_alive() for worker in self._workers), "a client got no definite response"

    def join(self, seconds: float) -> None:
        """Wait until `most` messages are sent."""
        for worker in self._workers:
            worker.join(seconds)

    def _run(self) -> None:
        session = requests.Session()
        while not self._stop.is_set():
            number = next(self._numbers)
            if number >= self.most:
                return
            tenant, mode = self.tenants[number % len(self.tenants)], "test" if number % 10 == 0 else "live"
            try:
                self._send(session, tenant, mode, f"{self.prefix}-{number}")
            except (AssertionError, KeyError, requests.RequestException) as error:  # an error in a thread would be lost
                self.refused.append(f"{self.prefix}-{number}: {error!r}")
            time.sleep(self.pause)

    def _send(self, session: requests.Session, tenant: Tenant, mode: str, key: str) -> None:
        body = {"to": self._random.choice(RECIPIENTS), "type": "sms", "message": f"Hello {key}"}
        headers = {"X-API-Key": tenant.keys[mode], "Idempotency-Key": key}
        ends_at = time.monotonic() + 100
        while time.monotonic() < ends_at:
            started = time.monotonic()
            try:
                response = session.post(
                    f"{self.stack.url}/api/v1/messages/send", json=body, headers=headers, timeout=15
                )
            except requests.RequestException as error:
                self.statuses.append((0, time.monotonic() - started))
                self.broken.append(repr(error))
                time.sleep(0.1)
                continue
            self.statuses.append((response.status_code, time.monotonic() - started))
            if response.status_code == 202:
                self.replayed += [key] * ("Idempotency-Replayed" in response.headers)
                data = response.json()["data"]
                self.journal.append(
                    AcceptedMessage(tenant.name, key, mode, body["to"], data["segments"], data["message_id"])
                )
                return
            if response.status_code < 500:
                self.refused.append(response.text)
                return
            time.sleep(0.1)
        raise AssertionError(f"no definite response for {key}")
