"""Users, password verification, e-mail verification."""

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session, undefer

from saas_api.accounts import audit, one_time_tokens
from saas_api.accounts.models import User
from saas_api.accounts.tokens import InvalidToken
from saas_api.core import clock, crypto
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from saas_api.core.errors import Conflict, InvalidOneTimeToken
from saas_api.mail import mails


def update_name(principal: Principal, full_name: str) -> None:
    """Set the name the caller goes by.

    raises: InvalidToken when they were disabled since the gate let them pass
    """
    with tenancy.system_session("auth.account") as session:
        user = lock(session, principal.id)
        if user is None:
            raise InvalidToken
        if user.full_name != full_name:
            change = {"before": {"full_name": user.full_name}, "after": {"full_name": full_name}}
            user.full_name = full_name
            audit.record_user_event_in_all_organizations(session, user.id, "user.renamed", change)


VERIFY_EMAIL_PURPOSE = "verify_email"


class AlreadyVerified(Conflict):
    """The address was verified before."""

    code, message = "ALREADY_VERIFIED", "This e-mail address is verified already."


def request_email_verification(principal: Principal) -> None:
    """Mail a new link to a person; older ones are void.

    raises: AlreadyVerified, InvalidToken when the person was disabled since the gate let them pass
    """
    with tenancy.system_session("auth.verification") as session:
        user = lock(session, principal.id)
        if user is None:
            raise InvalidToken
        if user.email_verified_at is not None:
            raise AlreadyVerified
        send_verification_email(session, user)


def verify_email(token: str) -> User:
    """Believe that a person reads the mail of their address.

    raises: InvalidOneTimeToken
    """
    with tenancy.system_session("auth.verification") as session:
        user = lock(session, one_time_tokens.find_token_user(session, VERIFY_EMAIL_PURPOSE, token))
        if user is None:
            raise InvalidOneTimeToken
        one_time_tokens.consume_token(session, VERIFY_EMAIL_PURPOSE, token)
        mark_email_verified(session, user)
        return user


def send_verification_email(session: Session, user: User) -> None:
    """Mail a person the link that proves their address."""
    token = one_time_tokens.issue_token(session, user.id, VERIFY_EMAIL_PURPOSE)
    mails.enqueue(session, VERIFY_EMAIL_PURPOSE, user.email, token=token, name=user.full_name)


def mark_email_verified(session: Session, user: User) -> None:
    """Write that an address was proven, and void the links that would prove it again."""
    if user.email_verified_at is None:
        user.email_verified_at = clock.now()
        one_time_tokens.revoke_tokens(session, user.id, VERIFY_EMAIL_PURPOSE)
        audit.record_user_event_in_all_organizations(session, user.id, "user.email_verified", {"email": user.email})


class EmailTaken(Conflict):
    """Somebody signed up with that address."""

    code, message = "EMAIL_TAKEN", "There is an account with this e-mail address."
    constraint, field = "users_email", "email"


def create(session: Session, email: str, password: str, full_name: str) -> User:
    """Make a person.

    raises: EmailTaken, at the latest when the transaction ends
    """
    return create_with_hash(session, email, crypto.hash_password(password), full_name)


def create_with_hash(session: Session, email: str, password_hash: str, full_name: str) -> User:
    """Make a person whose password was hashed before the transaction began.

    raises: EmailTaken, at the latest when the transaction ends
    """
    user = User(email=email, full_name=full_name, password_hash=password_hash)
    session.add(user)
    session.flush()  # the address must be free before anything else is made for this person
    return user


def find_by_email(session: Session, email: str) -> User | None:
    """The person with that address, however its letters are cased, with the password's hash."""
    statement = select(User).where(func.lower(User.email) == email.lower()).options(undefer(User.password_hash))
    return session.scalar(statement)


def find_user(session: Session, user_id: UUID) -> User | None:
    """The person with that id, with the password's hash."""
    return session.scalar(select(User).where(User.id == user_id).options(undefer(User.password_hash)))


def lock(session: Session, user_id: UUID) -> User | None:
    """The person with that id, whom nobody changes until this transaction ends; None when they are disabled."""
    statement = select(User).where(User.id == user_id, User.disabled_at.is_(None))
    return session.scalar(statement.with_for_update(key_share=True).execution_options(populate_existing=True))


def verify_password(user: User | None, password: str) -> bool:
    """Compare in the same time whether or not there is such a person; slow, so outside of transactions."""
    is_right = crypto.verify_password(user.password_hash if user else None, password)
    return is_right and user is not None and user.disabled_at is None


def rehash_if_outdated(user: User, password: str) -> str | None:
    """The hash of a checked password by today's parameters; None when the stored one has them."""
    return crypto.hash_password(password) if crypto.needs_rehash(user.password_hash) else None


def lock_verified(session: Session, checked: User, renewed: str | None) -> User | None:
    """The person whose password was checked, locked; None when it changed meanwhile or they were disabled.

    renewed: the hash to store from now on
    """
    statement = select(User).where(
        User.id == checked.id, User.password_hash == checked.password_hash, User.disabled_at.is_(None)
    )
    user = session.scalar(statement.with_for_update(key_share=True))
    if user is not None and renewed is not None:
        user.password_hash = renewed
    return user
