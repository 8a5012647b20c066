"""Create, revoke, decline, accept; lock_by_token."""

import secrets
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts import audit, members
from saas_api.accounts.audit import SYSTEM_ACTOR, Actor
from saas_api.accounts.models import Invitation, Membership, Organization
from saas_api.core import access, clock, crypto, roles
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from saas_api.core.errors import Conflict, Forbidden, InvalidOneTimeToken, NotFound
from saas_api.mail import mails

INVITATION_LIFETIME = timedelta(days=7)

TOKEN_BYTES = 32


class InvitationNotFound(NotFound):
    """There is none, or it was answered or withdrawn."""


class InvitationExists(Conflict):
    """Somebody with that address was asked and has not answered."""

    code, message = "INVITATION_EXISTS", "There is an open invitation for this address; cancel it to send another."
    constraint = "invitations_one_pending"


class AlreadyMember(Conflict):
    """Somebody with that address belongs to the organization."""

    code, message = "USER_EXISTS", "Somebody with this address is a member already."
    constraint = "memberships_pkey"


def create_invitation(session: Session, principal: Principal, email: str, role: str) -> Invitation:
    """Ask somebody to join, by mail.

    role: none above the caller's own
    raises: EmailNotVerified, Forbidden, UserExists; InvitationExists, at the latest when the transaction ends
    """
    access.require_verified_email(principal)
    own = members.lock_member(session, principal, "members:write", principal.id)
    if role == "owner" or roles.is_role_above(role, own.role):
        raise Forbidden("You cannot invite somebody above your own role.")
    if members.is_member_email(session, principal.organization_id, email):
        raise AlreadyMember
    _delete_expired(session, principal.organization_id, email)
    token, now = secrets.token_urlsafe(TOKEN_BYTES), clock.now()
    invitation = Invitation(
        organization_id=principal.organization_id,
        email=email,
        role=role,
        digest=crypto.sha256(token),
        invited_by=principal.id,
        expires_at=now + INVITATION_LIFETIME,
        created_at=now,
    )
    session.add(invitation)
    session.flush()  # nobody else may be asking the same address
    change = {"after": {"email": email, "role": role}}
    _record(session, invitation, audit.actor_for(principal), "invitation.created", change)
    _write(session, principal, invitation, token)
    return invitation


def revoke_invitation(session: Session, principal: Principal, invitation_id: UUID) -> None:
    """Withdraw an invitation: its link leads nowhere.

    raises: NoSuchInvitation
    """
    invitation = _close(
        session, Invitation.organization_id == principal.organization_id, Invitation.id == invitation_id
    )
    if invitation is None:
        raise InvitationNotFound
    change = {"before": {"email": invitation.email, "role": invitation.role}}
    _record(session, invitation, audit.actor_for(principal), "invitation.canceled", change)


def decline_invitation(token: str) -> None:
    """Refuse an invitation, as whoever holds its link.

    raises: InvalidOneTimeToken
    """
    with tenancy.system_session("organizations.decline") as session:
        invitation = _close(session, *_is_open(token))
        if invitation is None:
            raise InvalidOneTimeToken
        change = {"before": {"email": invitation.email, "role": invitation.role}}
        _record(session, invitation, SYSTEM_ACTOR, "invitation.declined", change)


def lock_by_token(session: Session, token: str) -> Invitation:
    """The open invitation a link belongs to; nobody else can answer it until this transaction ends.

    session: of the system
    raises: InvalidOneTimeToken
    """
    invitation = session.scalar(sa.select(Invitation).where(*_is_open(token)).with_for_update())
    if invitation is None:
        raise InvalidOneTimeToken
    return invitation


def accept_invitation(session: Session, token: str, user_id: UUID) -> tuple[Organization, str]:
    """Let a person in who holds an invitation's link; that they may use its address is for the caller to prove.

    session: of the system
    returns: the organization, and the role they have there
    raises: InvalidOneTimeToken, UserExists at the latest when the transaction ends
    """
    invitation = lock_by_token(session, token)
    invitation.accepted_at = clock.now()
    session.add(Membership(organization_id=invitation.organization_id, user_id=user_id, role=invitation.role))
    session.flush()  # they may have joined already
    change = {"after": {"user": str(user_id), "email": invitation.email, "role": invitation.role}}
    _record(session, invitation, Actor("user", str(user_id)), "invitation.accepted", change)
    return session.get_one(Organization, invitation.organization_id), invitation.role


def _write(session: Session, principal: Principal, invitation: Invitation, token: str) -> None:
    inviter = members.get_member(session, principal.organization_id, principal.id)
    organization = session.get_one(Organization, principal.organization_id)
    mails.enqueue(
        session,
        "invitation",
        invitation.email,
        organization_id=organization.id,
        token=token,
        organization=organization.name,
        inviter=inviter.display_name,
        role=invitation.role,
    )


def _is_open(token: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        Invitation.digest == crypto.sha256(token),
        members.pending_invitation_clause(),
        Invitation.expires_at > clock.now(),
    )


def _close(session: Session, *which: sa.ColumnElement[bool]) -> Invitation | None:
    statement = sa.update(Invitation).where(members.pending_invitation_clause(), *which).values(revoked_at=clock.now())
    return session.scalar(statement.returning(Invitation))


def _delete_expired(session: Session, organization_id: UUID, email: str) -> None:
    _close(
        session,
        Invitation.organization_id == organization_id,
        sa.func.lower(Invitation.email) == email.lower(),
        Invitation.expires_at <= clock.now(),
    )


def _record(
    session: Session, invitation: Invitation, actor: Actor, action: str, change: dict[str, dict[str, Any]]
) -> None:
    audit.record_event(session, invitation.organization_id, actor, action, ("invitation", invitation.id), change)
