"""Notices: mails about changes that an intruder would make, to the users whom they concern."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.accounts.models import User
from saas_api.core import clock, request_context
from saas_api.mail import mails


@dataclass(frozen=True)
class Recipient:
    """An address to which a mail is sent; `name` may be empty.

    is_verified: its user has opened a link sent to it; until then it gets no text that a user may have chosen
    """

    email: str
    name: str
    is_verified: bool = True

    @classmethod
    def of(cls, user: User) -> "Recipient":
        """A user, without a name while the address is not verified."""
        return cls(user.email, user.greeting_name, user.email_verified)


@dataclass(frozen=True)
class Notice:
    """What a notice says, beside the time of the change and the address of the request.

    facts: lines of text, each at most mails.MAX_VALUE_LENGTH characters
    advice: what to do if the change was not expected
    path: of the page where it is done
    guide_path: of the guide about it, if there is one
    """

    subject: str
    facts: Sequence[str]
    advice: str
    path: str
    guide_path: str = ""


def enqueue(
    session: Session, recipients: Iterable[Recipient], notice: Notice, organization_id: UUID | None = None
) -> None:
    """Mail a notice, each address once, in the transaction of the change; without its facts to unverified addresses.

    organization_id: None for a change of an account or of the platform
    """
    for recipient in {recipient.email.lower(): recipient for recipient in recipients}.values():
        mails.enqueue(
            session,
            "security_notice",
            recipient.email,
            organization_id=organization_id,
            name=recipient.name,
            subject_line=notice.subject,
            facts=notice.facts if recipient.is_verified else [],
            advice=notice.advice,
            path=notice.path,
            guide_path=notice.guide_path,
            at=mails.format_time(clock.now(), "UTC"),
            ip=request_context.current_origin().ip,
        )
