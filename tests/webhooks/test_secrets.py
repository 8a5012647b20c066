"""Secrets of endpoints: encrypted at rest, shown once, replaced with a time of grace."""

import threading
from typing import Any

import pytest

from saas_api.core import ids
from saas_api.core.crypto import DecryptionFailed
from saas_api.core.db import tenancy
from saas_api.webhooks import secrets
from tests.support.webhooks import ENDPOINTS, Company


def test_secret_is_stored_encrypted_and_read_for_signing(acme: Company) -> None:
    made = acme.listen()
    [row] = acme.rows("SELECT secret_encrypted FROM webhook_secrets")
    assert made["secret"].encode() not in bytes(row.secret_encrypted)
    assert live(acme, made["id"]) == [made["secret"]]


def live(acme: Company, endpoint_id: str) -> list[str]:
    with acme.app.app_context(), tenancy.tenant_session(acme.id) as session:
        return secrets.list_active_secrets(session, acme.id, ids.parse_id("whe", endpoint_id))


def test_previous_secret_is_active_during_the_grace_period(acme: Company) -> None:
    made = acme.listen()
    answer = acme.call("POST", f"/endpoints/{made['id']}/rotate-secret", {"grace_seconds": 600})
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    new = answer.json["data"]["secret"]
    assert live(acme, made["id"]) == [new, made["secret"]]
    acme.run("UPDATE webhook_secrets SET expires_at = now() - interval '1 s' WHERE expires_at IS NOT NULL")
    assert live(acme, made["id"]) == [new]


def test_rotation_without_grace_expires_every_older_secret(acme: Company) -> None:
    made = acme.listen()
    acme.call("POST", f"/endpoints/{made['id']}/rotate-secret", {})
    answer = acme.call("POST", f"/endpoints/{made['id']}/rotate-secret", {"grace_seconds": 0})
    assert live(acme, made["id"]) == [answer.json["data"]["secret"]]


def test_at_most_three_secrets_are_active(acme: Company) -> None:
    made = acme.listen()
    news = [acme.call("POST", f"/endpoints/{made['id']}/rotate-secret", {}).json["data"]["secret"] for _ in range(3)]
    assert live(acme, made["id"]) == news[::-1]


@pytest.mark.parametrize("grace", [-1, 604_801, "60", 1.5, True, None])
def test_invalid_grace_period_is_rejected(acme: Company, grace: Any) -> None:
    made = acme.listen()
    answer = acme.call("POST", f"/endpoints/{made['id']}/rotate-secret", {"grace_seconds": grace})
    assert (answer.status_code, answer.json["error"]["code"]) == (422, "VALIDATION_ERROR")


def test_concurrent_rotations_leave_one_secret_without_expiry(acme: Company) -> None:
    made = acme.listen()
    together, answers = threading.Barrier(4), []

    def rotate() -> None:
        client = acme.app.test_client()
        together.wait(10)
        path = f"{ENDPOINTS}/{made['id']}/rotate-secret"
        answers.append(client.post(path, json={}, headers=acme.owner.headers).status_code)

    threads = [threading.Thread(target=rotate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [200] * 4
    assert len(acme.rows("SELECT FROM webhook_secrets WHERE expires_at IS NULL")) == 1
    assert len(live(acme, made["id"])) == 3


def test_secret_is_reencrypted_under_a_new_secret_key(
    acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = acme.listen()
    old = acme.app.config["SECRET_KEY"]
    monkeypatch.setitem(acme.app.config, "SECRET_KEY", "n" * 32 + "," + old)
    assert live(acme, made["id"]) == [made["secret"]]
    with acme.app.app_context():
        assert secrets.reencrypt_secrets() == 1
    monkeypatch.setitem(acme.app.config, "SECRET_KEY", "n" * 32)
    assert live(acme, made["id"]) == [made["secret"]]
    monkeypatch.setitem(acme.app.config, "SECRET_KEY", old)
    with pytest.raises(DecryptionFailed):
        live(acme, made["id"])
