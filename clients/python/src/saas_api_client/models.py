"""The platform's answers, generated from its OpenAPI document by `make clients`; do not edit.

Amounts and quantities are decimal strings, times are aware.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date as date_aliased
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, Optional, TypeAlias

Channel: TypeAlias = Literal["sms", "email"]


@dataclass(frozen=True)
class UsagePeriod:
    start_date: date_aliased
    end_date: date_aliased
    timezone: str


@dataclass(frozen=True)
class DayUsage:
    requests: int
    success_count: int
    error_count: int
    cost: Decimal
    date: date_aliased


@dataclass(frozen=True)
class DimensionUsage:
    meter: str
    dimension: str
    requests: int
    quantity: Decimal
    cost: Decimal
    value: Optional[str] = None


@dataclass(frozen=True)
class EndpointUsage:
    requests: int
    success_count: int
    error_count: int
    cost: Decimal
    method: str
    endpoint: str


@dataclass(frozen=True)
class EventProblem:
    index: int
    code: str
    message: str
    id: Optional[str] = None


HoldStatus: TypeAlias = Literal["open", "settled", "released", "expired"]


@dataclass(frozen=True)
class RecordedEvents:
    accepted: int
    duplicates: int
    """
    Recorded before; they count nothing
    """
    rejected: int
    errors: list[EventProblem]


KeyMode: TypeAlias = Literal["live", "test"]


KeyStatus: TypeAlias = Literal["active", "expired", "revoked"]


@dataclass(frozen=True)
class KeyUsage:
    requests: int
    success_count: int
    error_count: int
    cost: Decimal
    api_key_id: Optional[str] = None
    name: Optional[str] = None


@dataclass(frozen=True)
class Limit:
    name: Literal["plan", "key"]
    limit: int
    remaining: int
    reset_at: datetime


MessageStatus: TypeAlias = Literal["queued", "sending", "sent", "delivered", "failed", "canceled"]


@dataclass(frozen=True)
class MeterUsage:
    meter: str
    unit: str
    requests: int
    quantity: Decimal
    included: Decimal
    overage: Decimal
    cost: Decimal


OrganizationStatus: TypeAlias = Literal["active", "suspended", "closed"]


@dataclass(frozen=True)
class Pagination:
    limit: int
    has_more: bool
    next_cursor: Optional[str] = None


@dataclass(frozen=True)
class Reversal:
    id: str
    reversal_of: str
    event_id: str
    source: str
    organization_id: str
    meter: str
    quantity: Decimal
    time: datetime
    """
    Of the event
    """
    created_at: datetime


@dataclass(frozen=True)
class RotatedApiKey:
    id: str
    name: str
    masked: str
    prefix: str
    last_four: str
    mode: KeyMode
    scopes: list[str]
    """
    With full access, those that there are at this moment.
    """
    has_full_access: bool
    """
    The key has every scope, also of services that are added later.
    """
    allowed_ips: list[str]
    is_active: bool
    status: KeyStatus
    created_at: datetime
    is_orphaned: bool
    """
    The user who created it has left, is disabled, or may no longer create keys.
    """
    key: str
    old_expires_at: datetime
    rate_limit_per_minute: Optional[int] = None
    last_used_at: Optional[datetime] = None
    expires_at: Optional[datetime] = None
    revoked_at: Optional[datetime] = None
    created_by: Optional[str] = None


SmsEncoding: TypeAlias = Literal["GSM-7", "UCS-2"]


@dataclass(frozen=True)
class Spend:
    used: Decimal
    currency: str
    cap: Optional[Decimal] = None


@dataclass(frozen=True)
class UsagePoint:
    at: datetime
    date: date_aliased
    requests: int
    cost: Decimal
    """
    at list price
    """
    quantity: Optional[Decimal] = None
    """
    null when several meters are added up
    """


@dataclass(frozen=True)
class UsageSeries:
    points: list[UsagePoint]
    group: Optional[str] = None
    name: Optional[str] = None


@dataclass(frozen=True)
class UsageSummary:
    total_requests: int
    successful_requests: int
    failed_requests: int
    rate_limited_requests: int
    success_rate: float
    total_cost: Decimal
    """
    what the bill will say, after included quantities
    """
    list_cost: Decimal
    """
    units times list price
    """
    currency: str
    period: UsagePeriod


@dataclass(frozen=True)
class Verification:
    valid: bool
    code: Literal[
        "VALID",
        "NOT_FOUND",
        "INSUFFICIENT_SCOPE",
        "IP_NOT_ALLOWED",
        "RATE_LIMITED",
        "QUOTA_EXCEEDED",
        "SPEND_CAP_REACHED",
        "SUBSCRIPTION_RESTRICTED",
        "ORGANIZATION_SUSPENDED",
    ]
    key_id: Optional[str] = None
    key_name: Optional[str] = None
    organization_id: Optional[str] = None
    external_id: Optional[str] = None
    mode: Optional[str] = None
    scopes: Optional[list[str]] = None
    plan: Optional[str] = None
    entitlements: Optional[dict[str, Any]] = None
    limits: Optional[list[Limit]] = None
    spend: Optional[Spend] = None
    usage_event_id: Optional[str] = None
    hold_id: Optional[str] = None
    units: Optional[Decimal] = None
    retry_after_seconds: Optional[int] = None
    details: Optional[dict[str, Any]] = None


@dataclass(frozen=True)
class AcceptedMessage:
    message_id: str
    to: str
    type: str
    status: str
    segments: int
    cost: str
    currency: str
    usage_recorded: bool
    mode: str
    organization_id: str
    created_at: datetime
    encoding: Optional[SmsEncoding] = None
    non_gsm_character: Optional[str] = None
    """
    the first character because of which the encoding is UCS-2
    """


@dataclass(frozen=True)
class CreatedApiKey:
    id: str
    name: str
    masked: str
    prefix: str
    last_four: str
    mode: KeyMode
    scopes: list[str]
    """
    With full access, those that there are at this moment.
    """
    has_full_access: bool
    """
    The key has every scope, also of services that are added later.
    """
    allowed_ips: list[str]
    is_active: bool
    status: KeyStatus
    created_at: datetime
    is_orphaned: bool
    """
    The user who created it has left, is disabled, or may no longer create keys.
    """
    key: str
    rate_limit_per_minute: Optional[int] = None
    last_used_at: Optional[datetime] = None
    expires_at: Optional[datetime] = None
    revoked_at: Optional[datetime] = None
    created_by: Optional[str] = None


@dataclass(frozen=True)
class Hold:
    hold_id: str
    status: HoldStatus
    mode: str
    organization_id: str
    service: str
    event_id: str
    meter: str
    quantity: Decimal
    dimensions: dict[str, str]
    created_at: datetime
    expires_at: datetime
    key_id: Optional[str] = None
    endpoint: Optional[str] = None
    ended_at: Optional[datetime] = None
    settled_quantity: Optional[Decimal] = None
    usage_event_id: Optional[str] = None


@dataclass(frozen=True)
class ApiKey:
    id: str
    name: str
    masked: str
    prefix: str
    last_four: str
    mode: KeyMode
    scopes: list[str]
    """
    With full access, those that there are at this moment.
    """
    has_full_access: bool
    """
    The key has every scope, also of services that are added later.
    """
    allowed_ips: list[str]
    is_active: bool
    status: KeyStatus
    created_at: datetime
    is_orphaned: bool
    """
    The user who created it has left, is disabled, or may no longer create keys.
    """
    rate_limit_per_minute: Optional[int] = None
    last_used_at: Optional[datetime] = None
    expires_at: Optional[datetime] = None
    revoked_at: Optional[datetime] = None
    created_by: Optional[str] = None


@dataclass(frozen=True)
class Message:
    message_id: str
    to: str
    type: Channel
    status: MessageStatus
    segments: int
    currency: str
    mode: KeyMode
    attempts: int
    created_at: datetime
    subject: Optional[str] = None
    cost: Optional[Decimal] = None
    error_code: Optional[str] = None
    sent_at: Optional[datetime] = None
    delivered_at: Optional[datetime] = None


@dataclass(frozen=True)
class Organization:
    id: str
    name: str
    slug: str
    billing_email_verified: bool
    timezone: str
    locale: str
    """
    BCP 47, such as en-US
    """
    status: OrganizationStatus
    created_at: datetime
    updated_at: datetime
    billing_email: Optional[str] = None
    external_id: Optional[str] = None
    """
    How services know the organization
    """


@dataclass(frozen=True)
class ApiKeyPage:
    keys: list[ApiKey]
    pagination: Pagination


@dataclass(frozen=True)
class MessagePage:
    messages: list[Message]
    pagination: Pagination


@dataclass(frozen=True)
class UsageTimeseries:
    interval: str
    mode: str
    currency: str
    period: UsagePeriod
    points: list[UsagePoint]
    series: list[UsageSeries]
    meter: Optional[str] = None
    group_by: Optional[str] = None
    archived_before: Optional[datetime] = None
    """
    Quantities and charges of meters that count the highest, the latest or different values leave out usage before this time, because its events are archived; invoices have them. Null when nothing is left out.
    """


@dataclass(frozen=True)
class Usage:
    mode: str
    summary: UsageSummary
    by_meter: list[MeterUsage]
    by_dimension: list[DimensionUsage]
    by_endpoint: list[EndpointUsage]
    by_api_key: list[KeyUsage]
    daily_breakdown: list[DayUsage]
    archived_before: Optional[datetime] = None
    """
    Quantities and charges of meters that count the highest, the latest or different values leave out usage before this time, because its events are archived; invoices have them. Null when nothing is left out.
    """


@dataclass(frozen=True)
class OrganizationEnvelope:
    organization: Organization
