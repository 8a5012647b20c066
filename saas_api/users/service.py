"""People, their passwords, and who of them runs the platform; only its own transactions may read a hash."""

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session, undefer

from saas_api.core import crypto
from saas_api.core.errors import Conflict
from saas_api.users.models import Operator, User


class EmailTaken(Conflict):
    """Somebody signed up with that address."""

    code, message = "EMAIL_TAKEN", "There is an account with this e-mail address."
    constraint, field = "users_email", "email"


def create(session: Session, email: str, password: str, full_name: str) -> User:
    """Make a person.

    raises: EmailTaken, at the latest when the transaction ends
    """
    return add(session, email, crypto.hash_password(password), full_name)


def add(session: Session, email: str, password_hash: str, full_name: str) -> User:
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


def find(session: Session, user_id: UUID) -> User | None:
    """The person with that id, with the password's hash."""
    return session.scalar(select(User).where(User.id == user_id).options(undefer(User.password_hash)))


def hold(session: Session, user_id: UUID) -> User | None:
    """The person with that id, whom nobody changes until this transaction ends; None when they are disabled."""
    statement = select(User).where(User.id == user_id, User.disabled_at.is_(None))
    return session.scalar(statement.with_for_update(key_share=True).execution_options(populate_existing=True))


def check_password(user: User | None, password: str) -> bool:
    """Compare in the same time whether or not there is such a person; slow, so outside of transactions."""
    is_right = crypto.verify_password(user.password_hash if user else None, password)
    return is_right and user is not None and user.disabled_at is None


def renewed_hash(user: User, password: str) -> str | None:
    """The hash of a checked password by today's parameters; None when the stored one has them."""
    return crypto.hash_password(password) if crypto.needs_rehash(user.password_hash) else None


def confirm(session: Session, checked: User, renewed: str | None) -> User | None:
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


def appoint(session: Session, user_id: UUID, role: str) -> str | None:
    """Make a person an operator of the platform, or give an operator another role.

    role: "support" or "admin"
    returns: the role they had
    """
    operator = session.get(Operator, user_id)
    if operator is None:
        session.add(Operator(user_id=user_id, role=role))
        return None
    before, operator.role = operator.role, role
    return before


def dismiss(session: Session, user_id: UUID) -> str | None:
    """End somebody's work as operator, from their next request on.

    returns: the role they had
    """
    operator = session.get(Operator, user_id)
    if operator is None:
        return None
    session.delete(operator)
    return operator.role


def operators(session: Session) -> list[tuple[User, Operator]]:
    """Every operator, by address."""
    statement = select(User, Operator).join(Operator, Operator.user_id == User.id).order_by(func.lower(User.email))
    return [(user, operator) for user, operator in session.execute(statement)]


def office_of(session: Session, user_id: UUID) -> str | None:
    """The role of an operator; None for everybody else."""
    operator = session.get(Operator, user_id)
    return operator.role if operator else None
