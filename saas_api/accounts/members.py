"""Members of an organization: roles, ownership, removal; recipients of its mail."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts import audit, notices
from saas_api.accounts.audit import Actor
from saas_api.accounts.models import Invitation, Membership, Organization, User
from saas_api.accounts.notices import Notice, Recipient
from saas_api.core import access, clock
from saas_api.core.access import PERMISSIONS, Access, Principal
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, Forbidden, NotFound, ValidationFailed
from saas_api.core.roles import MemberRole


class MemberNotFound(NotFound):
    """The organization has no member with that id."""


class OwnerRequired(Conflict):
    """The organization would have no owner."""

    code, message = "LAST_OWNER", "An organization has exactly one owner; transfer the ownership first."
    constraint = "memberships_keep_owner"


class CannotRemoveSelf(Conflict):
    """A member cannot remove their own membership."""

    code, message = "CANNOT_REMOVE_SELF", "You cannot remove yourself; another admin can."


@dataclass(frozen=True)
class Member:
    """A user as the other members see them."""

    user_id: UUID
    email: str
    full_name: str
    role: MemberRole
    email_verified: bool
    joined_at: datetime

    @property
    def display_name(self) -> str:
        """The full name, or the address when there is none."""
        return self.full_name or self.email

    @property
    def described(self) -> str:
        """The full name, if there is one, and the address."""
        return f"{self.full_name} ({self.email})" if self.full_name else self.email


@dataclass(frozen=True)
class TeamView:
    """Members in the order they joined, and open invitations, newest first."""

    members: Sequence[Member]
    pending_invitations: Sequence[Invitation]

    @property
    def total_members(self) -> int:
        """Number of members."""
        return len(self.members)

    @property
    def total_pending(self) -> int:
        """Number of open invitations."""
        return len(self.pending_invitations)


def list_memberships(session: SystemSession, user_id: UUID) -> list[tuple[Organization, MemberRole]]:
    """Every organization of a user with the role there, in the order of joining."""
    statement = (
        sa.select(Organization, Membership.role)
        .join(Membership, Membership.organization_id == Organization.id)
        .where(Membership.user_id == user_id)
        .order_by(Membership.created_at, Organization.id)
    )
    return [(organization, role) for organization, role in session.execute(statement)]


def list_recipients(
    session: Session,
    organization_id: UUID,
    roles: Collection[str],
    *,
    user_ids: Collection[UUID] = (),
    includes_billing_email: bool = False,
) -> list[Recipient]:
    """Recipients of a mail of the organization, each address once.

    roles: of the members who receive it
    user_ids: of further members who receive it
    includes_billing_email: the billing address of the organization receives it too, once it is verified
    """
    organization = session.get_one(Organization, organization_id)
    recipients = _members_to_mail(session, [organization_id], roles, user_ids)[organization_id]
    return _add_billing_email(recipients, organization) if includes_billing_email else recipients


def list_recipients_in_batch(
    session: SystemSession, organizations: Collection[Organization], roles: Collection[str]
) -> dict[UUID, list[Recipient]]:
    """As `list_recipients`, of several organizations with their billing addresses, by organization."""
    recipients = _members_to_mail(session, [organization.id for organization in organizations], roles)
    return {one.id: _add_billing_email(recipients[one.id], one) for one in organizations}


def _members_to_mail(
    session: Session, organization_ids: Collection[UUID], roles: Collection[str], user_ids: Collection[UUID] = ()
) -> defaultdict[UUID, list[Recipient]]:
    is_verified = User.email_verified_at.is_not(None)
    rows = session.execute(
        sa.select(Membership.organization_id, User.email, User.full_name, is_verified)
        .join(Membership, Membership.user_id == User.id)
        .where(Membership.organization_id.in_(organization_ids))
        .where(sa.or_(Membership.role.in_(roles), User.id.in_(user_ids)))
        .order_by(User.id)
    )
    recipients: defaultdict[UUID, list[Recipient]] = defaultdict(list)
    for organization_id, email, name, verified in rows:
        recipients[organization_id].append(Recipient(email, name if verified else "", is_verified=verified))
    return recipients


def _add_billing_email(recipients: list[Recipient], organization: Organization) -> list[Recipient]:
    address = organization.billing_email
    is_new = address and organization.billing_email_verified and address not in {one.email for one in recipients}
    return [*recipients, Recipient(address, "")] if address and is_new else recipients


_ACTORS = {"operator": "an operator of the platform", "system": "the platform", "portal": "the customer portal"}


def enqueue_notice(
    session: Session, organization_id: UUID, actor: Actor, notice: Notice, *, user_ids: Collection[UUID] = ()
) -> None:
    """Mail a notice of a change in the organization to its owner, to the actor and to further members.

    notice: without the organization and the actor, which are added to its facts
    user_ids: of the members whom the change concerns
    """
    actor_member = find_member(session, organization_id, UUID(actor.id)) if actor.kind == "user" and actor.id else None
    by = _ACTORS.get(actor.kind, "a former member")
    name = session.get_one(Organization, organization_id).name
    facts = [f"Organization: {name}", *notice.facts, f"By: {actor_member.described if actor_member else by}"]
    concerned = [*user_ids, *([actor_member.user_id] if actor_member else [])]
    recipients = list_recipients(session, organization_id, {MemberRole.OWNER}, user_ids=concerned)
    notices.enqueue(session, recipients, replace(notice, facts=facts), organization_id)


def get_team(session: Session, organization_id: UUID) -> TeamView:
    """The members of an organization and its open invitations."""
    rows = session.execute(_select_members(organization_id).order_by(Membership.created_at, User.id)).all()
    invitations = (
        sa.select(Invitation)
        .where(
            Invitation.organization_id == organization_id,
            pending_invitation_clause(),
            Invitation.expires_at > clock.now(),
        )
        .order_by(Invitation.id.desc())
    )
    return TeamView([Member(*row) for row in rows], session.scalars(invitations).all())


def get_member(session: Session, organization_id: UUID, user_id: UUID) -> Member:
    """A member of an organization.

    raises: MemberNotFound
    """
    member = find_member(session, organization_id, user_id)
    if member is None:
        raise MemberNotFound
    return member


def find_member(session: Session, organization_id: UUID, user_id: UUID) -> Member | None:
    """A member of an organization; None when the user is not a member."""
    row = session.execute(_select_members(organization_id).where(User.id == user_id)).first()
    return Member(*row) if row else None


def is_member_email(session: Session, organization_id: UUID, email: str) -> bool:
    """Whether a member has that address."""
    statement = _select_members(organization_id).where(User.email == email)
    return session.execute(statement).first() is not None


def pending_invitation_clause() -> sa.ColumnElement[bool]:
    """Condition of an invitation that is neither accepted nor revoked; it may have expired."""
    return sa.and_(Invitation.accepted_at.is_(None), Invitation.revoked_at.is_(None))


def _select_members(organization_id: UUID) -> sa.Select[UUID, str, str, MemberRole, bool, datetime]:
    is_verified = User.email_verified_at.is_not(None)
    return (
        sa.select(User.id, User.email, User.full_name, Membership.role, is_verified, Membership.created_at)
        .join(Membership, Membership.user_id == User.id)
        .where(Membership.organization_id == organization_id)
    )


def lock_member(session: Session, principal: Principal, permission: str, user_id: UUID) -> Membership:
    """Lock the memberships of a user and of the caller, and authorize the caller with the current role.

    user_id: may be the caller's own
    raises: Forbidden when the caller has lost the permission or was disabled meanwhile, MemberNotFound
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
    memberships = {membership.user_id: membership for membership in session.scalars(statement)}
    is_disabled = session.scalar(sa.select(User.disabled_at).where(User.id == principal.id)) is not None
    if principal.id not in memberships or is_disabled:
        raise Forbidden
    access.authorize(replace(principal, role=memberships[principal.id].role), Access(permission=permission))
    if user_id not in memberships:
        raise MemberNotFound
    return memberships[user_id]


def change_role(session: Session, principal: Principal, user_id: UUID, role: str) -> Member:
    """Change the role of a member, from the next request on. Revokes invitations that the new role may not send.

    role: any but "owner", which is transferred
    raises: FreshLoginRequired, MemberNotFound, OwnerRequired
    """
    access.require_fresh_login(principal)
    membership = lock_member(session, principal, "members:promote", user_id)
    if membership.role == MemberRole.OWNER:
        raise OwnerRequired
    role_before, membership.role = membership.role, MemberRole(role)
    session.flush()
    if role not in PERMISSIONS["members:write"]:
        _revoke_invitations(session, membership)
    if role_before != role:
        change = {"before": {"role": role_before}, "after": {"role": role}}
        _record(session, principal, "member.role_changed", user_id, change)
        _notify(session, principal, user_id, "The role of a member was changed", f"Role: {role}, before {role_before}")
    return get_member(session, principal.organization_id, user_id)


def transfer_ownership(session: Session, principal: Principal, user_id: UUID) -> None:
    """Make another member the owner; the previous owner becomes an admin.

    raises: FreshLoginRequired, MemberNotFound, ValidationFailed when the member is the owner already
    """
    access.require_fresh_login(principal)
    if user_id == principal.id:
        raise ValidationFailed.at_field("user_id", "You are the owner already.")
    new_owner = lock_member(session, principal, "members:promote", user_id)
    owner = session.get_one(Membership, (principal.organization_id, principal.id))
    role_before = new_owner.role
    owner.role = MemberRole.ADMIN
    session.flush()  # before the next one: the unique index of owners is checked row by row
    new_owner.role = MemberRole.OWNER
    session.flush()
    change = {
        "before": {"owner": str(principal.id), "role": role_before},
        "after": {"owner": str(user_id), "former_owner_role": MemberRole.ADMIN},
    }
    _record(session, principal, "member.ownership_transferred", user_id, change)
    _notify(session, principal, user_id, "The ownership was transferred", "Role: owner")


def remove_member(session: Session, principal: Principal, user_id: UUID) -> None:
    """Remove a member: their tokens are rejected from the next request on, and their invitations are revoked.

    raises: FreshLoginRequired, CannotRemoveSelf, MemberNotFound, OwnerRequired
    """
    access.require_fresh_login(principal)
    if user_id == principal.id:
        raise CannotRemoveSelf
    membership = lock_member(session, principal, "members:write", user_id)
    if membership.role == MemberRole.OWNER:
        raise OwnerRequired
    member = get_member(session, principal.organization_id, user_id)
    _notify(session, principal, user_id, "A member was removed", f"Role: none, before {member.role}")
    _end_membership(session, membership)
    before = audit.values(role=member.role, email=member.email)
    _record(session, principal, "member.removed", user_id, {"before": before})


def leave_organization(session: Session, principal: Principal) -> None:
    """End the caller's own membership: tokens for the organization are rejected from the next request on.

    raises: OwnerRequired, Forbidden when another admin has removed the caller meanwhile
    """
    membership = lock_member(session, principal, "members:read", principal.id)
    if membership.role == MemberRole.OWNER:
        raise OwnerRequired
    member = get_member(session, principal.organization_id, principal.id)
    before = audit.values(role=member.role, email=member.email)
    _end_membership(session, membership)
    _record(session, principal, "member.left", principal.id, {"before": before})


def dismiss_onboarding(session: Session, principal: Principal) -> None:
    """Hide the onboarding steps from the calling member for good."""
    statement = sa.update(Membership).where(
        Membership.organization_id == principal.organization_id, Membership.user_id == principal.id
    )
    session.execute(statement.values(onboarding_dismissed_at=clock.now()))


def _end_membership(session: Session, membership: Membership) -> None:
    _revoke_invitations(session, membership)
    session.delete(membership)
    session.flush()


def _revoke_invitations(session: Session, inviter: Membership) -> None:
    statement = sa.update(Invitation).where(
        Invitation.organization_id == inviter.organization_id,
        Invitation.invited_by == inviter.user_id,
        pending_invitation_clause(),
    )
    session.execute(statement.values(revoked_at=clock.now()))


def _notify(session: Session, principal: Principal, user_id: UUID, subject: str, role: str) -> None:
    """Mail a notice to a member whose role changes, to the owner and to the caller."""
    member = get_member(session, principal.organization_id, user_id)
    facts = [f"Member: {member.described}", role]
    advice = "Change your password, then correct the roles on the team page or ask the owner to do it."
    notice = Notice(subject, facts, advice, "/dashboard/team")
    enqueue_notice(session, principal.organization_id, audit.actor_for(principal), notice, user_ids=[user_id])


def _record(session: Session, principal: Principal, action: str, user_id: UUID, change: Mapping[str, Any]) -> None:
    target = ("user", user_id)
    audit.record_event(session, principal.organization_id, audit.actor_for(principal), action, target, change)
