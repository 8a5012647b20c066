"""Members, roles, ownership; recipients of mail."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.accounts.models import Invitation, Membership, Organization, User
from saas_api.core import access, clock
from saas_api.core.access import PERMISSIONS, Access, Principal
from saas_api.core.errors import Conflict, Forbidden, NotFound, ValidationFailed


def list_memberships(session: Session, user_id: UUID) -> list[tuple[Organization, str]]:
    """Every organization of a person with their role there, in the order they joined."""
    statement = (
        sa.select(Organization, Membership.role)
        .join(Membership, Membership.organization_id == Organization.id)
        .where(Membership.user_id == user_id)
        .order_by(Membership.created_at, Organization.id)
    )
    return [(organization, role) for organization, role in session.execute(statement)]


@dataclass(frozen=True)
class Member:
    """A person as the others of the organization see them."""

    user_id: UUID
    email: str
    full_name: str
    role: str
    email_verified: bool
    joined_at: datetime

    @property
    def display_name(self) -> str:
        """The name they go by."""
        return self.full_name or self.email


@dataclass(frozen=True)
class TeamView:
    """Who belongs to an organization, and who was asked to."""

    members: Sequence[Member]
    pending_invitations: Sequence[Invitation]

    @property
    def total_members(self) -> int:
        """How many belong."""
        return len(self.members)

    @property
    def total_pending(self) -> int:
        """How many were asked and have not answered."""
        return len(self.pending_invitations)


@dataclass(frozen=True)
class Recipient:
    """Somebody who gets a mail of the organization's."""

    email: str
    name: str


def list_recipients(
    session: Session, organization_id: UUID, roles: Sequence[str], *, is_bill: bool = False
) -> list[Recipient]:
    """Who of an organization is written to, each address once.

    roles: of the members who are
    is_bill: the organization's address for bills is written to as well
    """
    found = {
        member.email.lower(): Recipient(member.email, member.full_name)
        for member in session.execute(_members(organization_id).where(Membership.role.in_(roles)).order_by(User.id))
    }
    own = session.get_one(Organization, organization_id).billing_email if is_bill else None
    if own:
        found.setdefault(own.lower(), Recipient(own, ""))
    return list(found.values())


def get_team(session: Session, organization_id: UUID) -> TeamView:
    """Everybody, in the order they joined, and every invitation that still may be accepted, newest first."""
    rows = session.execute(_members(organization_id).order_by(Membership.created_at, User.id)).all()
    waiting = (
        sa.select(Invitation)
        .where(
            Invitation.organization_id == organization_id,
            pending_invitation_clause(),
            Invitation.expires_at > clock.now(),
        )
        .order_by(Invitation.id.desc())
    )
    return TeamView([Member(*row) for row in rows], session.scalars(waiting).all())


def find_member(session: Session, organization_id: UUID, user_id: UUID) -> Member | None:
    """A member."""
    row = session.execute(_members(organization_id).where(User.id == user_id)).first()
    return Member(*row) if row else None


def is_member_email(session: Session, organization_id: UUID, email: str) -> bool:
    """Whether somebody with that address, however its letters are cased, belongs to the organization."""
    found = _members(organization_id).where(sa.func.lower(User.email) == email.lower())
    return session.execute(found).first() is not None


def pending_invitation_clause() -> sa.ColumnElement[bool]:
    """The condition of an invitation nobody has answered or withdrawn."""
    return sa.and_(Invitation.accepted_at.is_(None), Invitation.revoked_at.is_(None))


def _members(organization_id: UUID) -> sa.Select[UUID, str, str, str, bool, datetime]:
    is_verified = User.email_verified_at.is_not(None)
    return (
        sa.select(User.id, User.email, User.full_name, Membership.role, is_verified, Membership.created_at)
        .join(Membership, Membership.user_id == User.id)
        .where(Membership.organization_id == organization_id)
    )


class MemberNotFound(NotFound):
    """Nobody with that id belongs to the organization."""


class OwnerRequired(Conflict):
    """The organization would be left without its owner."""

    code, message = "LAST_OWNER", "An organization has exactly one owner; transfer the ownership first."
    constraint = "memberships_keep_owner"


class CannotRemoveSelf(Conflict):
    """Somebody would put themselves out."""

    code, message = "CANNOT_REMOVE_SELF", "You cannot remove yourself; another admin can."


def change_role(session: Session, principal: Principal, user_id: UUID, role: str) -> Member:
    """Give a member another role; it acts on their next request.

    role: any but "owner", which is transferred
    raises: NoSuchMember, LastOwner
    """
    held = lock_member(session, principal, "members:promote", user_id)
    if held.role == "owner":
        raise OwnerRequired
    before, held.role = held.role, role
    session.flush()
    if role not in PERMISSIONS["members:write"]:
        _withdraw_invitations(session, held)
    if before != role:
        change = {"before": {"role": before}, "after": {"role": role}}
        _record(session, principal, "member.role_changed", user_id, change)
    return get_member(session, principal.organization_id, user_id)


def transfer_ownership(session: Session, principal: Principal, user_id: UUID) -> None:
    """Make another member the owner; the one who was becomes an admin.

    raises: NotFresh, NoSuchMember, Invalid when that member is the owner already
    """
    access.require_fresh_login(principal)
    if user_id == principal.id:
        raise ValidationFailed.at_field("user_id", "You are the owner already.")
    heir = lock_member(session, principal, "members:promote", user_id)
    owner = session.get_one(Membership, (principal.organization_id, principal.id))
    before = heir.role
    owner.role = "admin"
    session.flush()  # never two at once: the index is checked row by row
    heir.role = "owner"
    session.flush()
    change = {
        "before": {"owner": str(principal.id), "role": before},
        "after": {"owner": str(user_id), "former_owner_role": "admin"},
    }
    _record(session, principal, "member.ownership_transferred", user_id, change)


def remove_member(session: Session, principal: Principal, user_id: UUID) -> None:
    """Put a member out: their tokens are refused on the next request, and their invitations lead nowhere.

    raises: CannotRemoveSelf, NoSuchMember, LastOwner
    """
    if user_id == principal.id:
        raise CannotRemoveSelf
    held = lock_member(session, principal, "members:write", user_id)
    if held.role == "owner":
        raise OwnerRequired
    member = get_member(session, principal.organization_id, user_id)
    _withdraw_invitations(session, held)
    session.delete(held)
    session.flush()
    _record(session, principal, "member.removed", user_id, {"before": {"role": member.role, "email": member.email}})


def get_member(session: Session, organization_id: UUID, user_id: UUID) -> Member:
    """A member.

    raises: NoSuchMember
    """
    member = find_member(session, organization_id, user_id)
    if member is None:
        raise MemberNotFound
    return member


def lock_member(session: Session, principal: Principal, permission: str, user_id: UUID) -> Membership:
    """A member whose row and the caller's stay as they are until this transaction ends; the caller is judged again.

    user_id: may be the caller's own
    raises: Forbidden when the caller lost the permission meanwhile, NoSuchMember
    """
    statement = (
        sa.select(Membership)
        .where(
            Membership.organization_id == principal.organization_id,
            Membership.user_id.in_((principal.id, user_id)),
        )
        .order_by(Membership.user_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    held = {membership.user_id: membership for membership in session.scalars(statement)}
    if principal.id not in held:
        raise Forbidden
    access.authorize(replace(principal, role=held[principal.id].role), Access(permission=permission))
    if user_id not in held:
        raise MemberNotFound
    return held[user_id]


def _withdraw_invitations(session: Session, inviter: Membership) -> None:
    statement = sa.update(Invitation).where(
        Invitation.organization_id == inviter.organization_id,
        Invitation.invited_by == inviter.user_id,
        pending_invitation_clause(),
    )
    session.execute(statement.values(revoked_at=clock.now()))


def _record(
    session: Session, principal: Principal, action: str, user_id: UUID, change: dict[str, dict[str, str]]
) -> None:
    target = ("user", user_id)
    audit.record_event(session, principal.organization_id, audit.actor_for(principal), action, target, change)


def dismiss_onboarding(session: Session, principal: Principal) -> None:
    """Remember that a member does not want to see the first steps any more."""
    who = Membership.organization_id == principal.organization_id, Membership.user_id == principal.id
    session.execute(sa.update(Membership).where(*who).values(onboarding_dismissed_at=clock.now()))
