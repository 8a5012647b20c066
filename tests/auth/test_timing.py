"""A wrong password takes as long as an unknown address; reported, for a busy machine must not fail a build."""

import statistics
import sys
import time

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.auth import service as auth
from tests.people import sign_up

ROUNDS = 15
ORIGIN = auth.Origin("127.0.0.1", "timing")


def seconds_to_refuse(email: str) -> float:
    started = time.perf_counter()
    with pytest.raises(auth.InvalidCredentials):
        auth.sign_in(email, "not the password", None, ORIGIN)
    return time.perf_counter() - started


def test_known_and_unknown_addresses_are_refused_alike(
    context: Flask, client: FlaskClient, capsys: pytest.CaptureFixture[str]
) -> None:
    sign_up(client, "alice@acme.example", "Acme")
    known, unknown = [], []
    for _ in range(ROUNDS):
        known.append(seconds_to_refuse("alice@acme.example"))
        unknown.append(seconds_to_refuse("nobody@acme.example"))
    medians = statistics.median(known), statistics.median(unknown)
    apart = abs(medians[0] - medians[1]) / max(medians)
    figures = f"known {medians[0] * 1000:.1f} ms, unknown {medians[1] * 1000:.1f} ms, {apart:.1%} apart"
    with capsys.disabled():
        sys.stdout.write(f"\nsign-in refused, medians of {ROUNDS}: {figures}\n")
