"""Tables of users, organizations and their members, sign-in and the audit log."""

import uuid
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, DateTime, FetchedValue, LargeBinary, Text
from sqlalchemy.dialects.postgresql import INET, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from saas_api.accounts import user_agents
from saas_api.core import ids
from saas_api.core.db.engine import Model
from saas_api.core.db.types import EnumText
from saas_api.core.roles import MemberRole


class OrganizationStatus(StrEnum):
    """Status of an organization; an operator suspends and resumes it."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    CLOSED = "closed"


class User(Model):
    """A person with an account. The password hash is not loaded unless a query asks for it."""

    __tablename__ = "users"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    email: Mapped[str] = mapped_column(Text)
    full_name: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    password_hash: Mapped[str] = mapped_column(Text, deferred=True, deferred_raiseload=True)
    email_verified_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    tokens_valid_after: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())
    disabled_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())

    @property
    def email_verified(self) -> bool:
        """Whether the user has opened a link sent to the address."""
        return self.email_verified_at is not None

    @property
    def display_name(self) -> str:
        """The full name, or the address when there is none."""
        return self.full_name or self.email

    @property
    def greeting_name(self) -> str:
        """The full name; empty while the address is not verified, as a stranger may have given both."""
        return self.full_name if self.email_verified else ""


class Operator(Model):
    """The operator role of a user; independent of the roles in organizations."""

    __tablename__ = "operators"

    user_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    role: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


class UserSession(Model):
    """One sign-in of a user, with its current refresh token."""

    __tablename__ = "user_sessions"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    user_id: Mapped[uuid.UUID]
    refresh_digest: Mapped[bytes] = mapped_column(LargeBinary)
    previous_digest: Mapped[bytes | None] = mapped_column(LargeBinary)
    rotated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    last_seen_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    ip: Mapped[str | None] = mapped_column(INET)
    user_agent: Mapped[str | None] = mapped_column(Text)
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    revoked_reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())

    @property
    def browser(self) -> str:
        """A name such as "Chrome on macOS"."""
        return user_agents.describe_session(self.user_agent)


class OneTimeToken(Model):
    """The token of a mailed link; only its digest is stored."""

    __tablename__ = "user_tokens"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    user_id: Mapped[uuid.UUID]
    purpose: Mapped[str] = mapped_column(Text)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    used_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


class EmailChange(Model):
    """A new address of a user, which becomes theirs when the link mailed to it is opened."""

    __tablename__ = "email_changes"

    user_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(Text)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


class TwoFactorSecret(Model):
    """The secret of a user's authenticator app, encrypted.

    last_step: time step, in 30 seconds since 1970, of the newest code that was accepted
    confirmed_at: when two-factor sign-in was turned on with a code; None while it is being set up
    """

    __tablename__ = "two_factor_secrets"

    user_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    secret_encrypted: Mapped[bytes] = mapped_column(LargeBinary)
    last_step: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    confirmed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


class RecoveryCode(Model):
    """A code that replaces one of the authenticator app, once; only its digest is stored."""

    __tablename__ = "recovery_codes"

    user_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    used_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Organization(Model):
    """A tenant of the platform."""

    __tablename__ = "organizations"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    name: Mapped[str] = mapped_column(Text)
    slug: Mapped[str] = mapped_column(Text)
    billing_email: Mapped[str | None] = mapped_column(Text)
    billing_email_verified_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    timezone: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    locale: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    generation: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    generation_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    status: Mapped[OrganizationStatus] = mapped_column(EnumText(OrganizationStatus), server_default=FetchedValue())
    closed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    external_id: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())

    @property
    def billing_email_verified(self) -> bool:
        """Whether a link sent to the billing address was opened; mails go to no other billing address."""
        return self.billing_email is not None and self.billing_email_verified_at is not None


class OrganizationLimits(Model):
    """Limits that an operator set in place of those of the plan."""

    __tablename__ = "organization_limits"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    rate_limit_per_minute: Mapped[int | None]
    quotas: Mapped[dict[str, Any]] = mapped_column("ceilings", JSONB, server_default=FetchedValue())
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    reason: Mapped[str] = mapped_column(Text)
    set_by: Mapped[uuid.UUID | None]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


class Membership(Model):
    """A user in an organization, with a role."""

    __tablename__ = "memberships"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    role: Mapped[MemberRole] = mapped_column(EnumText(MemberRole))
    onboarding_dismissed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


class TenancyCanary(Model):
    """A row that a transaction without an organization must not see."""

    __tablename__ = "tenancy_canary"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)


class Invitation(Model):
    """An open, accepted or revoked request to join; only the digest of its token is stored."""

    __tablename__ = "invitations"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    email: Mapped[str] = mapped_column(Text)
    role: Mapped[MemberRole] = mapped_column(EnumText(MemberRole))
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    invited_by: Mapped[uuid.UUID]
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    accepted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


class AuditEvent(Model):
    """An action with its actor, target and origin; a trigger makes the table append-only.

    month: in which it was recorded, by UTC; the log has a partition for each
    """

    __tablename__ = "audit_events"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, server_default=FetchedValue())
    organization_id: Mapped[uuid.UUID | None]
    actor_type: Mapped[str] = mapped_column(Text)
    actor_id: Mapped[str | None] = mapped_column(Text)
    on_behalf_of: Mapped[uuid.UUID | None]
    action: Mapped[str] = mapped_column(Text)
    target_type: Mapped[str] = mapped_column(Text)
    target_id: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=FetchedValue())
    reason: Mapped[str | None] = mapped_column(Text)
    request_id: Mapped[str | None] = mapped_column(Text)
    ip: Mapped[str | None] = mapped_column(INET)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    month: Mapped[date] = mapped_column(server_default=FetchedValue())
