"""The common request and response of a verification: read and written by hand as the schemas do it."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import marshmallow as ma
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from saas_api.billing.service_terms import ServiceTerms
from saas_api.core.ids import NIL_UUID
from saas_api.metering import common_verification
from saas_api.metering.key_principals import KeyPrincipal
from saas_api.metering.limits import SpendState
from saas_api.metering.models import Hold
from saas_api.metering.schemas import VerificationIn, VerificationOut
from saas_api.metering.verification import CODES, VALID, RecordedUsage, Verification, VerifiedLimit

JSON = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=1)
NAMES = st.sampled_from(
    ["", "a:b", "a:b\n", "A:b", "lookups", "x" * 63, "x" * 64, "x" * 255, "x" * 256, "\u00e4", "0", "2"]
)
BODIES = st.dictionaries(
    st.sampled_from(["key", "permission", "meter", "quantity", "event_id", "endpoint", "ip", "hold_seconds", "other"]),
    NAMES | st.sampled_from(["POST /v1", "post /v1", "1.5", "127.0.0.1", 10**12, 10**13]) | JSON,
    max_size=5,
)
DIMENSIONS = JSON | st.dictionaries(st.sampled_from(["model", "1", ""]), NAMES | JSON, max_size=2)


@given(BODIES | JSON, st.none() | DIMENSIONS)
@example({"key": "k", "permission": "a:b", "meter": "lookups", "quantity": 2, "event_id": "1"}, {"model": "small"})
@settings(max_examples=150, deadline=None)
def test_body_read_by_hand_is_what_the_schema_loads(body: Any, dimensions: Any) -> None:
    if isinstance(body, dict) and dimensions is not None:
        body = {**body, "dimensions": dimensions}
    common = common_verification.load(body)
    if common is not None:
        assert common == VerificationIn().load(body)


@pytest.mark.parametrize(
    "body",
    [
        {"key": "k"},
        {"key": "k", "permission": "lookups:read"},
        {"key": "k", "permission": "lookups:read", "meter": "lookups", "endpoint": "POST /v1/lookups"},
        {"key": "k", "meter": "lookups", "quantity": 3, "event_id": "a", "dimensions": {"model": "small", "size": 1}},
    ],
)
def test_common_body_is_read_by_hand(body: dict[str, Any]) -> None:
    assert common_verification.load(body) == VerificationIn().load(body)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"key": ""},
        {"key": "k", "quantity": 1},
        {"key": "k", "dimensions": {}, "event_id": "a"},
        {"key": "k", "meter": "lookups", "quantity": 0},
        {"key": "k", "meter": "lookups", "dimensions": {"1": "a"}},
        {"key": "k", "permission": "lookups"},
        {"key": "k", "other": 1},
    ],
)
def test_wrong_body_is_left_to_the_schema(body: dict[str, Any]) -> None:
    assert common_verification.load(body) is None
    with pytest.raises(ma.ValidationError):
        VerificationIn().load(body)


def service_terms(**changes: Any) -> ServiceTerms:
    return ServiceTerms(
        organization_status="active",
        standing="good",
        generation=1,
        plan_version_id="free@1",
        currency="USD",
        rate_limit_per_minute=60,
        period_id=NIL_UUID,
        period_ends_at=datetime.now(UTC),
        list_prices={},
        quotas={},
        **{"entitlements": {}, **changes},
    )


LIMITS = st.builds(
    VerifiedLimit,
    name=st.sampled_from(["plan", "key"]),
    limit=st.integers(1, 10**6),
    remaining=st.integers(0, 10**6),
    reset_at=st.integers(0, 4_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    reset_in_seconds=st.just(1),
)
USAGE = st.builds(
    RecordedUsage,
    units=st.decimals(0, 10**6, places=6),
    usage_event_id=st.none() | st.uuids(),
    hold=st.none() | st.just(Hold(id=UUID(int=5))),
)


@given(
    st.sampled_from(CODES),
    st.booleans(),
    st.lists(LIMITS, max_size=2),
    st.none() | st.builds(SpendState, used=st.text(), cap=st.none() | st.text(), currency=st.just("USD")),
    st.none() | USAGE,
)
@example(VALID, True, [], SpendState("0", None, "USD"), RecordedUsage(Decimal("1.50"), UUID(int=7)))
@settings(max_examples=100, deadline=None)
def test_response_written_by_hand_is_what_the_schema_dumps(
    code: str, has_terms: bool, limits: list[VerifiedLimit], spend: SpendState | None, recorded: RecordedUsage | None
) -> None:
    terms = service_terms(external_id="7", entitlements={"seats": 3}) if has_terms else None
    principal = KeyPrincipal(
        "key", UUID(int=3), NIL_UUID, scopes=frozenset({"b:read", "a:read"}), terms=terms, name="k"
    )
    answer = Verification(code, principal, limits, spend, recorded)
    common = common_verification.dump(answer)
    if common is not None:
        assert orjson.dumps(common) == orjson.dumps(VerificationOut().dump(answer))


def test_common_response_is_written_by_hand() -> None:
    principal = KeyPrincipal("key", UUID(int=3), UUID(int=4), terms=service_terms(), name="k")
    limit = VerifiedLimit("plan", 60, 59, datetime.now(UTC) + timedelta(minutes=1), 60)
    answer = Verification(VALID, principal, [limit], SpendState("0.00", None, "USD"), RecordedUsage(Decimal(2)))
    assert common_verification.dump(answer) == VerificationOut().dump(answer)


def test_response_about_an_unknown_key_is_left_to_the_schema() -> None:
    assert common_verification.dump(Verification("NOT_FOUND")) is None
