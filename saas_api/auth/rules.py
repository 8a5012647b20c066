"""What makes a password acceptable, and how long a mailed link is good for."""

import unicodedata
from collections.abc import Sequence
from datetime import timedelta

LINK_LIFETIMES = {"verify_email": timedelta(hours=24), "reset_password": timedelta(hours=1)}
SHORTEST = 8
LONGEST = 128
_ZXCVBN_READS = 72


def normal_password(password: str) -> str:
    """The form in which a password is hashed: the same for every keyboard that can type it."""
    return unicodedata.normalize("NFKC", password)


def length_problem(password: str) -> str | None:
    """Why a password in its normal form is too short or too long; None when it is neither."""
    return None if SHORTEST <= len(password) <= LONGEST else f"Use {SHORTEST} to {LONGEST} characters."


def password_problem(password: str, about: Sequence[str]) -> str | None:
    """Why a password is refused, in a sentence; None when it is not.

    password: in its normal form
    about: what an attacker would try first, such as the e-mail address
    """
    if problem := length_problem(password):
        return problem
    from zxcvbn import zxcvbn  # noqa: PLC0415 - 14 MiB of word lists, needed at sign-up only

    if zxcvbn(password[:_ZXCVBN_READS], user_inputs=list(about))["score"] == 0:
        return "This password is among the first anybody would try."
    return None
