"""Invitations to join an organization: create, revoke, decline, accept."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts import audit, members, one_time_tokens
from saas_api.accounts.audit import SYSTEM_ACTOR, Actor
from saas_api.accounts.models import Invitation, Membership, Organization
from saas_api.core import access, clock, crypto, roles
from saas_api.core.access import Principal
from saas_api.core.db import cells, tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, Forbidden, InvalidOneTimeToken, NotFound
from saas_api.core.roles import MemberRole
from saas_api.mail import mails

INVITATION_LIFETIME = timedelta(days=7)


class InvitationNotFound(NotFound):
    """The invitation does not exist, or was accepted, declined or revoked."""


class InvitationExists(Conflict):
    """The address has an open invitation."""

    code, message = "INVITATION_EXISTS", "There is an open invitation for this address; cancel it to send another."
    constraint = "invitations_one_pending"


class AlreadyMember(Conflict):
    """A member of the organization has the address."""

    code, message = "USER_EXISTS", "A user with this address is a member already."
    constraint = "memberships_pkey"


def lock_by_token(session: SystemSession, token: str) -> Invitation:
    """The open invitation of a token, locked until the transaction ends.

    raises: InvalidOneTimeToken
    """
    invitation = session.scalar(sa.select(Invitation).where(*_open_clause(token)).with_for_update())
    if invitation is None:
        raise InvalidOneTimeToken
    return invitation


def find_cell(token: str) -> str | None:
    """The cell of the organization that has sent an invitation; home for an unknown token.

    raises: as `cells.search`
    """
    if not cells.are_several():
        return None

    def find() -> UUID | None:
        with tenancy.system_session("organizations.invitation") as session:
            return session.scalar(sa.select(Invitation.organization_id).where(*_open_clause(token)))

    organization_id = cells.search(find)
    return cells.cell_of(organization_id) if organization_id else None


def create_invitation(session: Session, principal: Principal, email: str, role: str) -> Invitation:
    """Invite a user by mail.

    role: not above the caller's own, and not "owner"
    raises: EmailNotVerified, Forbidden, AlreadyMember; FreshLoginRequired for an admin; InvitationExists, at the latest
        when the transaction ends
    """
    if role == MemberRole.ADMIN:
        access.require_fresh_login(principal)
    return _invite(session, principal, email, role)


def resend_invitation(session: Session, principal: Principal, invitation_id: UUID) -> Invitation:
    """Replace an open invitation by one for the same address and role; the previous link no longer works.

    raises: as `create_invitation`, but not FreshLoginRequired, as the link is mailed to the same address;
        InvitationNotFound
    """
    invitation = _revoke_by_id(session, principal, invitation_id)
    return _invite(session, principal, invitation.email, invitation.role)


def _invite(session: Session, principal: Principal, email: str, role: str) -> Invitation:
    access.require_verified_email(principal)
    membership = members.lock_member(session, principal, "members:write", principal.id)
    if role == MemberRole.OWNER or roles.is_role_above(role, membership.role):
        raise Forbidden("You cannot invite a user above your own role.")
    if members.is_member_email(session, principal.organization_id, email):
        raise AlreadyMember
    _revoke_expired(session, principal.organization_id, email)
    token, digest = one_time_tokens.new_token()
    now = clock.now()
    invitation = Invitation(
        organization_id=principal.organization_id,
        email=email,
        role=MemberRole(role),
        digest=digest,
        invited_by=principal.id,
        expires_at=now + INVITATION_LIFETIME,
        created_at=now,
    )
    session.add(invitation)
    session.flush()  # InvitationExists, if another request is inviting the same address
    change = {"after": audit.values(email=email, role=role)}
    _record(session, invitation, audit.actor_for(principal), "invitation.created", change)
    _email_invitation(session, principal, invitation, token)
    return invitation


def revoke_invitation(session: Session, principal: Principal, invitation_id: UUID) -> None:
    """Revoke an open invitation; its link no longer works.

    raises: InvitationNotFound
    """
    _revoke_by_id(session, principal, invitation_id)


def _revoke_by_id(session: Session, principal: Principal, invitation_id: UUID) -> Invitation:
    invitation = _revoke(
        session, Invitation.organization_id == principal.organization_id, Invitation.id == invitation_id
    )
    if invitation is None:
        raise InvitationNotFound
    change = {"before": audit.values(email=invitation.email, role=invitation.role)}
    _record(session, invitation, audit.actor_for(principal), "invitation.canceled", change)
    return invitation


def decline_invitation(token: str) -> None:
    """Decline the invitation of a token, in a transaction of its own.

    raises: InvalidOneTimeToken
    """
    with cells.use(find_cell(token)), tenancy.system_session("organizations.decline") as session:
        invitation = _revoke(session, *_open_clause(token))
        if invitation is None:
            raise InvalidOneTimeToken
        change = {"before": audit.values(email=invitation.email, role=invitation.role)}
        _record(session, invitation, SYSTEM_ACTOR, "invitation.declined", change)


def accept_invitation(session: SystemSession, token: str, user_id: UUID) -> tuple[Organization, str]:
    """Make a user a member. The caller has verified that the invited address is the user's.

    returns: the organization and the role
    raises: InvalidOneTimeToken; AlreadyMember, at the latest when the transaction ends
    """
    invitation = lock_by_token(session, token)
    invitation.accepted_at = clock.now()
    session.add(Membership(organization_id=invitation.organization_id, user_id=user_id, role=invitation.role))
    session.flush()  # AlreadyMember, if the user has joined meanwhile
    change = {"after": audit.values(user=str(user_id), email=invitation.email, role=invitation.role)}
    _record(session, invitation, Actor("user", str(user_id)), "invitation.accepted", change)
    return session.get_one(Organization, invitation.organization_id), invitation.role


def _email_invitation(session: Session, principal: Principal, invitation: Invitation, token: str) -> None:
    """Mail the link without the names of organization and inviter, which its page shows: nobody asked for this mail."""
    inviter = members.get_member(session, principal.organization_id, principal.id)
    mails.enqueue(
        session,
        "invitation",
        invitation.email,
        organization_id=principal.organization_id,
        token=token,
        inviter=inviter.email,
        role=invitation.role,
    )


def _open_clause(token: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        Invitation.digest == crypto.sha256(token),
        members.pending_invitation_clause(),
        Invitation.expires_at > clock.now(),
    )


def _revoke(session: Session, *conditions: sa.ColumnElement[bool]) -> Invitation | None:
    statement = sa.update(Invitation).where(members.pending_invitation_clause(), *conditions)
    return session.scalar(statement.values(revoked_at=clock.now()).returning(Invitation))


def _revoke_expired(session: Session, organization_id: UUID, email: str) -> None:
    _revoke(
        session,
        Invitation.organization_id == organization_id,
        Invitation.email == email,
        Invitation.expires_at <= clock.now(),
    )


def _record(
    session: Session, invitation: Invitation, actor: Actor, action: str, change: dict[str, dict[str, Any]]
) -> None:
    audit.record_event(session, invitation.organization_id, actor, action, ("invitation", invitation.id), change)
