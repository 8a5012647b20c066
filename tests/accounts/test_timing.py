"""A wrong password costs the same work whether or not an account has the address."""

import statistics
import time

import pytest
from flask.testing import FlaskClient

from saas_api.accounts import sign_in
from saas_api.accounts.sessions import InvalidCredentials, SessionOrigin
from saas_api.accounts.sign_in import OrganizationChoice
from saas_api.accounts.tokens import TokenAudience
from tests.support.accounts import sign_up

ROUNDS = 9
FURTHEST_APART = 0.4
"""As a share of the slower one; without the comparison they are 0.9 apart."""
ORIGIN = SessionOrigin("127.0.0.1", "timing", TokenAudience.API)


def work_to_refuse(email: str) -> float:
    """CPU seconds of this thread, which load on the machine changes less than elapsed time."""
    started = time.thread_time()
    with pytest.raises(InvalidCredentials):
        sign_in.log_in(email, "not the password", OrganizationChoice(), ORIGIN)
    return time.thread_time() - started


@pytest.mark.usefixtures("context", "real_hashing")
def test_known_and_unknown_addresses_cost_the_same_work(client: FlaskClient) -> None:
    sign_up(client, "alice@acme.example", "Acme")
    known, unknown = [], []
    for _ in range(ROUNDS):
        known.append(work_to_refuse("alice@acme.example"))
        unknown.append(work_to_refuse("nobody@acme.example"))
    medians = statistics.median(known), statistics.median(unknown)
    assert max(medians) - min(medians) < FURTHEST_APART * max(medians), medians
