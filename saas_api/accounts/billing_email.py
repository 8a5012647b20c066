"""Verification of an organization's billing address, by a link that is mailed to it.

The link is signed for the organization and the address and is not stored. A change of the address invalidates it.
"""

from datetime import timedelta
from hmac import compare_digest
from uuid import UUID

from limits import parse as parse_limit
from sqlalchemy.orm import Session

from saas_api.accounts import audit, members
from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.accounts.models import Organization
from saas_api.core import access, clock, crypto
from saas_api.core.access import Principal
from saas_api.core.db import cells, tenancy
from saas_api.core.errors import Conflict, InvalidOneTimeToken, TooManyRequests
from saas_api.core.limits import limiter
from saas_api.mail import mails

LINK_LIFETIME = timedelta(days=7)
LINKS_PER_DAY = 10
_LINK_LIMIT = parse_limit(f"{LINKS_PER_DAY} per day")


class NothingToVerify(Conflict):
    """The organization has no billing address, or it is verified already."""

    code, message = "NO_UNVERIFIED_BILLING_EMAIL", "There is no billing address that has to be verified."


def request_verification(session: Session, principal: Principal) -> None:
    """Mail another link to the billing address of the caller's organization.

    raises: NothingToVerify, TooManyRequests, access.EmailNotVerified
    """
    organization = session.get_one(Organization, principal.organization_id, with_for_update=True)
    if organization.billing_email is None or organization.billing_email_verified_at is not None:
        raise NothingToVerify
    send_link(session, principal, organization)


def send_link(session: Session, principal: Principal, organization: Organization) -> None:
    """Mail a link to the billing address, which anybody may own until it is opened, without the organization's name.

    raises: TooManyRequests after LINKS_PER_DAY from one organization, access.EmailNotVerified
    """
    access.require_verified_email(principal)
    if not limiter.limiter.limiter.hit(_LINK_LIMIT, str(organization.id), "billing-email"):
        raise TooManyRequests(retry_after=_LINK_LIMIT.get_expiry())
    address = str(organization.billing_email)
    mails.enqueue(
        session,
        "verify_billing_email",
        address,
        organization_id=organization.id,
        requester=members.get_member(session, organization.id, principal.id).email,
        token=_sign_token(organization.id, address, int((clock.now() + LINK_LIFETIME).timestamp())),
    )


def verify(token: str) -> str:
    """Verify the billing address that a link was mailed to, in a transaction of its own. A repeat changes nothing.

    returns: the address
    raises: InvalidOneTimeToken, also when the organization has another address by now
    """
    organization_id, expires_at = _parse_token(token)
    with cells.use(cells.cell_of(organization_id)), tenancy.system_session("auth.billing_email") as session:
        organization = session.get(Organization, organization_id, with_for_update=True)
        if organization is None or organization.billing_email is None or expires_at < clock.now().timestamp():
            raise InvalidOneTimeToken
        address = organization.billing_email
        if not compare_digest(token.encode(), _sign_token(organization_id, address, expires_at).encode()):
            raise InvalidOneTimeToken
        if organization.billing_email_verified_at is None:
            organization.billing_email_verified_at = clock.now()
            target, data = ("organization", organization.id), {"billing_email": address}
            action = "organization.billing_email_verified"
            audit.record_event(session, organization.id, SYSTEM_ACTOR, action, target, data)
        return address


def _sign_token(organization_id: UUID, address: str, expires_at: int) -> str:
    """The token of a link: organization and expiry, which are readable, and the signature of both and the address."""
    parts = (organization_id.hex, str(expires_at))
    return "-".join([*parts, crypto.hmac_hex("billing_email", *parts, address)])


def _parse_token(token: str) -> tuple[UUID, int]:
    organization_id, _, rest = token.partition("-")
    try:
        return UUID(organization_id), int(rest.partition("-")[0])
    except ValueError:
        raise InvalidOneTimeToken from None
