"""People and their passwords; only the platform's own transactions may read a hash."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session, undefer

from saas_api.core import crypto
from saas_api.core.errors import Conflict
from saas_api.users.models import User


class EmailTaken(Conflict):
    """Somebody signed up with that address."""

    code, message = "EMAIL_TAKEN", "There is an account with this e-mail address."
    constraint = "users_email"


def create(session: Session, email: str, password: str, full_name: str) -> User:
    """Make a person.

    raises: EmailTaken, at the latest when the transaction ends
    """
    user = User(email=email, full_name=full_name, password_hash=crypto.hash_password(password))
    session.add(user)
    session.flush()  # the address must be free before anything else is made for this person
    return user


def find_by_email(session: Session, email: str) -> User | None:
    """The person with that address, however its letters are cased, with the password's hash."""
    statement = select(User).where(func.lower(User.email) == email.lower()).options(undefer(User.password_hash))
    return session.scalar(statement)


def check_password(user: User | None, password: str) -> bool:
    """Compare in the same time whether or not there is such a person; a hash of old parameters is renewed."""
    if not crypto.verify_password(user.password_hash if user else None, password) or user is None:
        return False
    if crypto.needs_rehash(user.password_hash):
        user.password_hash = crypto.hash_password(password)
    return user.disabled_at is None
