"""Portal sessions: a service or an operator makes a link, and the browser that opens it first gets the session."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts import audit, operators
from saas_api.accounts.audit import Actor
from saas_api.accounts.models import Organization, OrganizationStatus
from saas_api.accounts.organizations import OrganizationClosed, OrganizationNotFound
from saas_api.core import clock, crypto, ids
from saas_api.core.db import cells, tenancy
from saas_api.core.errors import Gone, Unauthenticated, ValidationFailed
from saas_api.core.settings import setting
from saas_api.metering import subjects
from saas_api.metering.refusals import OrganizationSuspended
from saas_api.portal import tokens
from saas_api.portal.models import PortalSession
from saas_api.portal.tokens import LINK_PREFIX, SESSION_PREFIX
from saas_api.services import catalogue, service_tokens

LINK_LIFETIME = timedelta(minutes=15)
IDLE_LIFETIME = timedelta(hours=1)
MAX_LIFETIME = timedelta(hours=12)
"""Of a session from the opening of its link on, however often it is used."""
MAX_URL_LENGTH = 2_000
_SEEN_EVERY = timedelta(minutes=1)


@dataclass(frozen=True)
class PortalMaker:
    """Who makes a link.

    actor: in the audit log
    service_token_id: of a service; None for an operator
    operator_id: of an operator; None for a service
    """

    actor: Actor
    service_token_id: UUID | None = None
    operator_id: UUID | None = None


@dataclass(frozen=True)
class PortalLink:
    """A link that was made.

    url: opens the portal once until `expires_at`
    """

    id: UUID
    organization_id: UUID
    scopes: Sequence[str]
    return_url: str | None
    url: str
    expires_at: datetime


@dataclass(frozen=True)
class CustomerPortal:
    """The portal of one session, as its pages show it.

    organization_name, locale: of the organization
    origins: that may embed its pages
    is_open: neither has its maker lost access, nor is the organization suspended or closed
    """

    id: UUID
    organization_id: UUID
    organization_name: str
    locale: str
    scopes: Sequence[str]
    return_url: str | None
    origins: Sequence[str]
    is_open: bool


class PortalLinkInvalid(Gone):
    """The link was opened before, has expired or was revoked, or there never was such a link: one answer."""

    code, message = "PORTAL_LINK_INVALID", "This link is no longer valid."

    def __init__(self, portal: CustomerPortal | None = None) -> None:
        """Create the error.

        portal: of the link; None for an unknown one
        """
        super().__init__()
        self.portal = portal


class PortalSessionEnded(Unauthenticated):
    """The portal session has ended, was revoked, or there is none."""

    code, message = "PORTAL_SESSION_ENDED", "This session has ended."

    def __init__(self, portal: CustomerPortal | None = None) -> None:
        """Create the error.

        portal: of the session; None for an unknown one
        """
        super().__init__()
        self.portal = portal


def create_link(
    maker: PortalMaker, organization: str, scopes: Sequence[str], return_url: str | None = None
) -> PortalLink:
    """Make a link to the portal of an organization, in a transaction of its own.

    organization: `org_...` or an external id
    scopes: names in `scopes.PERMISSIONS`, at least one
    return_url: of an origin of the service, or of the platform
    raises: OrganizationNotFound, OrganizationSuspended, OrganizationClosed, ValidationFailed
    """
    found = None if ids.is_public_id(organization, "key") else subjects.find_subjects([organization]).get(organization)
    if found is None:
        raise OrganizationNotFound
    if return_url is not None:
        _check_return_url(return_url, _find_origins(maker.service_token_id, maker.operator_id) or ())
    token, now = tokens.generate(LINK_PREFIX, found.organization_id), clock.now()
    record = PortalSession(
        organization_id=found.organization_id,
        id=ids.new_id(),
        service_token_id=maker.service_token_id,
        operator_id=maker.operator_id,
        scopes=sorted(set(scopes)),
        return_url=return_url,
        link_digest=crypto.sha256(token),
        link_expires_at=now + LINK_LIFETIME,
        created_at=now,
    )
    with _maker_session(maker, found.organization_id) as session:
        _require_active(session, found.organization_id)
        session.add(record)
        _record(session, record, maker.actor, "created", {"scopes": record.scopes, "return_url": return_url})
    url = f"{setting('APP_URL')}/portal/open?token={token}"
    return PortalLink(record.id, found.organization_id, record.scopes, return_url, url, record.link_expires_at)


@contextlib.contextmanager
def _maker_session(maker: PortalMaker, organization_id: UUID) -> Iterator[Session]:
    """A transaction in which a link is created; that of an operator is in the log of the platform, too."""
    if maker.operator_id is None:
        with tenancy.tenant_session(organization_id) as session:
            yield session
        return
    with cells.use(cells.cell_of(organization_id)), tenancy.system_session("portal.links") as system_session:
        yield system_session


def open_link(token: str) -> tuple[str, CustomerPortal]:
    """Exchange the token of a link for that of a session, once, in a transaction of its own.

    returns: the token of the session, for its cookie, and the portal
    raises: PortalLinkInvalid
    """
    organization_id = tokens.find_organization(LINK_PREFIX, token)
    if organization_id is None:
        raise PortalLinkInvalid
    now, session_token = clock.now(), tokens.generate(SESSION_PREFIX, organization_id)
    is_of_link = {"organization_id": organization_id, "link_digest": crypto.sha256(token)}
    with tenancy.tenant_session(organization_id) as session:
        record = session.scalar(sa.select(PortalSession).filter_by(**is_of_link))
        if record is None:
            raise PortalLinkInvalid
        portal = _get_portal(session, record)
        # of two requests at once, the second waits for the first and then finds the link opened
        opened = (
            sa.update(PortalSession)
            .filter_by(**is_of_link, opened_at=None, ended_at=None)
            .where(PortalSession.link_expires_at > now)
            .values(session_digest=crypto.sha256(session_token), opened_at=now, last_seen_at=now)
        )
        if not portal.is_open or session.scalar(opened.returning(PortalSession.id)) is None:
            raise PortalLinkInvalid(portal)
        _record(session, record, _actor(portal), "opened", {"scopes": record.scopes})
    return session_token, portal


def authenticate(token: str, *, is_use: bool = True) -> CustomerPortal:
    """The portal of a session, in a transaction of its own.

    token: of its cookie
    is_use: False for a poll of a page, which must not keep a session from ending
    raises: PortalSessionEnded
    """
    organization_id = tokens.find_organization(SESSION_PREFIX, token)
    if organization_id is None:
        raise PortalSessionEnded
    now = clock.now()
    with tenancy.tenant_session(organization_id) as session:
        record = session.scalar(
            sa.select(PortalSession).filter_by(organization_id=organization_id, session_digest=crypto.sha256(token))
        )
        if record is None or record.opened_at is None or record.last_seen_at is None:
            raise PortalSessionEnded
        portal = _get_portal(session, record)
        is_over = now >= record.last_seen_at + IDLE_LIFETIME or now >= record.opened_at + MAX_LIFETIME
        if record.ended_at is not None or is_over or not portal.is_open:
            raise PortalSessionEnded(portal)
        if is_use and now >= record.last_seen_at + _SEEN_EVERY:
            record.last_seen_at = now
    return portal


def end_session(portal: CustomerPortal) -> None:
    """End a session, in a transaction of its own. A repeat changes nothing."""
    is_session = {"organization_id": portal.organization_id, "id": portal.id, "ended_at": None}
    with tenancy.tenant_session(portal.organization_id) as session:
        ended = sa.update(PortalSession).filter_by(**is_session).values(ended_at=clock.now()).returning(PortalSession)
        record = session.scalar(ended)
        if record is not None:
            _record(session, record, _actor(portal), "ended", {})


def _actor(portal: CustomerPortal) -> Actor:
    return Actor("portal", str(portal.id))


def _record(session: Session, record: PortalSession, actor: Actor, verb: str, data: Mapping[str, Any]) -> None:
    target = ("portal_session", record.id)
    audit.record_event(session, record.organization_id, actor, f"portal_session.{verb}", target, data)


def _get_portal(session: Session, record: PortalSession) -> CustomerPortal:
    organization = session.get_one(Organization, record.organization_id)
    origins = _find_origins(record.service_token_id, record.operator_id)
    return CustomerPortal(
        id=record.id,
        organization_id=record.organization_id,
        organization_name=organization.name,
        locale=organization.locale,
        scopes=record.scopes,
        return_url=record.return_url,
        origins=origins or (),
        is_open=origins is not None and organization.status == OrganizationStatus.ACTIVE,
    )


def _find_origins(service_token_id: UUID | None, operator_id: UUID | None) -> Sequence[str] | None:
    """The origins that may embed the sessions of a maker; None when the token was revoked or the operator has left."""
    if service_token_id is not None:
        token = service_tokens.find_active(service_token_id, catalogue.read_generation())
        return token.portal_origins if token else None
    with tenancy.system_session("portal.operators") as session:
        return () if operator_id and operators.find_operator_role(session, operator_id) else None


def _check_return_url(url: str, origins: Sequence[str]) -> None:
    """Check that a URL leads to an allowed origin.

    raises: ValidationFailed
    """
    is_plain = url.isascii() and url.isprintable() and not {" ", "\\"} & set(url)  # which browsers read in other ways
    try:
        parts = urlsplit(url)
    except ValueError:
        is_plain = False
    if not is_plain or f"{parts.scheme}://{parts.netloc}" not in {*origins, setting("APP_URL")}:
        reason = f"Must be on an origin that is listed for the service, or on {setting('APP_URL')}."
        raise ValidationFailed.at_field("return_url", reason)


def _require_active(session: Session, organization_id: UUID) -> None:
    """Refuse an organization that an operator has suspended, or that is closed; overdue invoices may still be paid.

    raises: OrganizationNotFound, OrganizationSuspended, OrganizationClosed
    """
    organization = session.get(Organization, organization_id)
    if organization is None:
        raise OrganizationNotFound
    if organization.status == OrganizationStatus.SUSPENDED:
        raise OrganizationSuspended
    if organization.status == OrganizationStatus.CLOSED:
        raise OrganizationClosed
