"""Verification of an API key for a service, with the usage of the call, in one decision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from saas_api.api_keys import key_format, key_scopes, last_use
from saas_api.core import clock, crypto, ids
from saas_api.core.access import FULL_ACCESS, InsufficientScope, KeyMode
from saas_api.core.db import tenancy
from saas_api.core.errors import ApiError, Forbidden, PaymentRequired, TooManyRequests, ValidationFailed
from saas_api.core.limits import counters, limiter
from saas_api.core.limits.limiter import LimitRequest
from saas_api.core.settings import setting
from saas_api.metering import holds, key_principals, limits, recording
from saas_api.metering.key_principals import KeyPrincipal
from saas_api.metering.limits import SpendState
from saas_api.metering.models import Hold
from saas_api.metering.recording import UsageRecordedBefore
from saas_api.metering.refusals import CustomerKeyNotFound, RateLimited
from saas_api.services import catalogue, service_tokens
from saas_api.services.service_tokens import ServicePrincipal
from saas_api.usage import ledger, meters, request_recorder, sources
from saas_api.usage.ledger import MeteredUsage, UsageRecord
from saas_api.usage.meter_file import MeterContent
from saas_api.usage.meters import InvalidQuantity, MissingProperty
from saas_api.usage.request_recorder import RequestDetails

VALID, NOT_FOUND = "VALID", "NOT_FOUND"
CODES = (
    VALID,
    NOT_FOUND,
    "INSUFFICIENT_SCOPE",
    "IP_NOT_ALLOWED",
    "RATE_LIMITED",
    "QUOTA_EXCEEDED",
    "SPEND_CAP_REACHED",
    "SUBSCRIPTION_RESTRICTED",
    "ORGANIZATION_SUSPENDED",
)
_REFUSALS = (Forbidden, PaymentRequired, TooManyRequests)


@dataclass(frozen=True)
class VerificationRequest:
    """What a service asks about a key, or about an organization without one.

    key: of the customer; None with `organization_id`, whose quota and cap then count without rate limits
    permission: scope that the key needs
    usage: what the call uses; None records nothing
    ip: of the customer; a key that is bound to networks needs it
    event_id: of the usage, which counts once
    hold_seconds: hold the usage instead of recording it
    endpoint: that reports show, such as "POST /v1/lookups"
    """

    key: str | None
    organization_id: UUID | None = None
    permission: str | None = None
    usage: MeteredUsage | None = None
    unique_value: str | None = None
    ip: str | None = None
    event_id: str | None = None
    hold_seconds: int | None = None
    endpoint: str | None = None


@dataclass(frozen=True)
class VerifiedLimit:
    """A rate limit after the call: of the plan or of the key.

    reset_in_seconds: until one more request passes, rounded up
    """

    name: Literal["plan", "key"]
    limit: int
    remaining: int
    reset_at: datetime
    reset_in_seconds: int


@dataclass(frozen=True)
class RecordedUsage:
    """Usage that a verification has recorded or holds; `usage_event_id` is None for a test key."""

    units: Decimal
    usage_event_id: UUID | None = None
    hold: Hold | None = None


@dataclass(frozen=True)
class Verification:
    """The answer to a service.

    code: one of CODES
    principal: of the key or organization; None if the key was not found
    refusal: why the answer is not VALID
    generation: of the catalogue that has the scopes of services
    """

    code: str
    principal: KeyPrincipal | None = None
    limits: Sequence[VerifiedLimit] = ()
    spend: SpendState | None = None
    recorded: RecordedUsage | None = None
    refusal: ApiError | None = None
    generation: int | None = None

    @property
    def scopes(self) -> Sequence[str]:
        """Scopes of the key, sorted; of a key with full access every scope that there is."""
        held = self.principal.scopes if self.principal else ()
        return key_scopes.list_offered(self.generation).expand(held) if FULL_ACCESS in held else sorted(held)

    @property
    def is_valid(self) -> bool:
        """Whether the call may go on."""
        return self.code == VALID

    @property
    def retry_after_seconds(self) -> int | None:
        """Time until the same call may pass, where waiting helps."""
        return self.refusal.retry_after if self.refusal else None

    @property
    def details(self) -> Mapping[str, Any]:
        """Details of the refusal, JSON-ready."""
        return self.refusal.details if self.refusal else {}


def get_meter(generation: int, code: str) -> MeterContent:
    """A meter that takes usage.

    generation: of the catalogue that has the meter
    raises: ValidationFailed for an unknown or archived meter
    """
    known = meters.cached_meters(generation)
    if code not in known:
        known = meters.cached_meters(catalogue.read_generation())
    if code not in known:
        raise ValidationFailed.at_field("meter", "There is no such meter.")
    return known[code]


def build_usage(
    generation: int, code: str, quantity: Decimal | None, properties: Mapping[str, str]
) -> tuple[MeteredUsage, str | None]:
    """The usage of a call, and the value that a meter with aggregation unique counts.

    generation: of the catalogue that has the meter
    raises: ValidationFailed for an unknown or archived meter, a missing property, or a quantity that cannot be counted
    """
    meter = get_meter(generation, code)
    try:
        return holds.call_usage(meter, Decimal(1) if quantity is None else quantity, properties)
    except (MissingProperty, InvalidQuantity) as error:
        field_name = "quantity" if error.details.get("property") == "quantity" else "dimensions"
        raise ValidationFailed.at_field(field_name, error.message) from error


def verify(service: ServicePrincipal, request: VerificationRequest) -> Verification:
    """Check a key, count the call against its limits, and record or hold its usage: all of it or nothing.

    service: its name is the source of the usage
    raises: InvalidServiceToken, CatalogueChanged; OrganizationNotFound, ServiceUnavailable
    """
    try:
        return _Decision(service, request).answer()
    except CustomerKeyNotFound as error:
        service_tokens.confirm(service, catalogue.read_generation())
        return Verification(error.code, refusal=error)


class _Decision:
    """The decision on one request: principal and limits change while it is made."""

    def __init__(self, service: ServicePrincipal, request: VerificationRequest) -> None:
        self.service, self.request = service, request
        self.digests = _key_digests(request.key) if request.key is not None else ()
        self.principal = self._load()
        self.call: LimitRequest | None = None

    def answer(self) -> Verification:
        try:
            self._check()
            recorded = self._count_and_record()
        except _REFUSALS as error:
            return self._refused(error)
        if self.request.key is not None:
            last_use.mark_used(self.principal.organization_id, self.principal.id)
        self._record_request(200)
        return self._answer(VALID, recorded=recorded)

    def _record_request(self, status: int, error: ApiError | None = None) -> None:
        """Record the call of the service that was verified, under the id of the verification."""
        method, route = sources.get_endpoint(self.request.endpoint or self.service.name)
        request_recorder.record(
            self.principal,
            method,
            route,
            status,
            describe=lambda: RequestDetails(
                error_code=error.code if error else None,
                error_message=error.message if error else None,
                ip=self.request.ip,
            ),
        )

    def _load(self, *, is_fresh: bool = False) -> KeyPrincipal:
        if self.request.organization_id is not None:
            return key_principals.get_organization_principal(self.request.organization_id, is_fresh=is_fresh)
        principal = key_principals.find_principal(self.digests, is_fresh=is_fresh)
        if principal is None:
            raise CustomerKeyNotFound
        return principal

    def _check(self) -> None:
        """Check what the key may do; a denial counts against this key alone, and is confirmed by PostgreSQL."""
        try:
            self._authorize()
        except _REFUSALS:
            service_tokens.confirm(self.service, catalogue.read_generation())
            if self.request.key is not None:
                key_principals.hit_denied_limit(self.principal)
            self.principal = self._load(is_fresh=True)
            self._authorize()

    def _authorize(self) -> None:
        key_principals.check_key(self.principal, self.request.ip, is_metered=self.request.usage is not None)
        needs_scope = self.request.key is not None and self.request.permission is not None
        if needs_scope and not self.principal.has_scope(str(self.request.permission)):
            raise InsufficientScope

    def _count_and_record(self) -> RecordedUsage | None:
        usage = [self.request.usage] if self.request.usage is not None else []
        self.call = limits.build_limit_request(self.principal, 0, usage)
        self.call.watched_key = catalogue.GENERATION_KEY
        limiter.decide(self.call)
        is_admitted = False
        try:
            service_tokens.confirm(self.service, self.call.watched_value)
            self.call, self.principal = limits.confirm_decision(self.call, self.principal, usage, self._reload)
            if self.call.decision is None or self.call.decision.code.is_refusal:
                raise limits.limit_exceeded_error(self.principal, self.call)
            recorded = self._record()
            is_admitted = True
        except UsageRecordedBefore:
            return self._find_recorded()
        finally:
            if not is_admitted:
                counters.release_quota(self.call)
        return recorded

    def _reload(self) -> KeyPrincipal:
        self.principal = self._load(is_fresh=True)
        self._authorize()
        return self.principal

    def _record(self) -> RecordedUsage | None:
        request, usage = self.request, self.request.usage
        if usage is None:
            return None
        if request.hold_seconds is not None:
            return self._hold(usage, request.hold_seconds)
        event_id = ids.new_id()
        event = UsageRecord(
            id=event_id,
            source=self.service.name,
            key=request.event_id or str(event_id),
            meter=usage.meter,
            quantity=usage.quantity,
            at=clock.now(),
            api_key_id=self.principal.id,
            properties=usage.properties,
            endpoint=request.endpoint,
            unique_value=request.unique_value,
        )
        recording.record(self.principal, self.call, event)
        return RecordedUsage(usage.quantity, event_id if self.principal.mode == KeyMode.LIVE else None)

    def _hold(self, usage: MeteredUsage, seconds: int) -> RecordedUsage:
        request = self.request
        hold = holds.create_hold(
            self.principal,
            self.service.name,
            usage,
            seconds,
            event_id=request.event_id,
            endpoint=request.endpoint,
            call=self.call,
        )
        return RecordedUsage(hold.quantity, hold=hold)

    def _find_recorded(self) -> RecordedUsage | None:
        """The usage that an earlier request with the same event id has recorded or holds."""
        organization_id = self.principal.organization_id
        if self.request.event_id is None:
            return None
        hold = holds.find_repeated_hold(organization_id, self.service.name, self.request.event_id)
        if hold is not None:
            return RecordedUsage(hold.quantity, hold=hold)
        with tenancy.tenant_session(organization_id) as session:
            row = ledger.find_event(
                session,
                organization_id,
                self.service.name,
                self.request.event_id,
                is_test=self.principal.mode == KeyMode.TEST,
            )
        if row is None:
            return None
        return RecordedUsage(row.quantity, row.id if self.principal.mode == KeyMode.LIVE else None)

    def _refused(self, error: ApiError) -> Verification:
        recorded = self._find_recorded()
        if recorded is not None:  # the same request was answered before
            return self._answer(VALID, recorded=recorded)
        if error.code == TooManyRequests.code:
            error = RateLimited(details=error.details, retry_after=error.retry_after)
        self._record_request(error.status, error)
        return self._answer(error.code, refusal=error)

    def _answer(
        self, code: str, *, recorded: RecordedUsage | None = None, refusal: ApiError | None = None
    ) -> Verification:
        return Verification(
            code, self.principal, self._limits(), self._spend(), recorded, refusal, self.service.generation
        )

    def _limits(self) -> list[VerifiedLimit]:
        decision = self.call.decision if self.call else None
        if self.call is None or decision is None:
            return []
        names: tuple[Literal["plan", "key"], ...] = ("plan", "key")
        now = clock.now()
        return [
            VerifiedLimit(name, limit, remaining, now + timedelta(milliseconds=reset_ms), -(-reset_ms // 1000))
            for name, (limit, _), (remaining, reset_ms) in zip(names, self.call.windows, decision.windows, strict=False)
        ]

    def _spend(self) -> SpendState | None:
        return limits.spend_state(self.principal, self.call)


def _key_digests(key: str) -> list[tuple[int, bytes]]:
    if not key_format.is_well_formed_key(key, setting("API_KEY_PREFIX")):
        raise CustomerKeyNotFound
    return crypto.keyed_digests(key)
