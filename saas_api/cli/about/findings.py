"""What a look at one part of the installation has found."""

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True)
class Finding:
    """One part of the installation.

    state: OK; WARN where it works and should be otherwise; FAIL where something does not work
    remedy: what to do; empty when all is well
    """

    name: str
    state: str
    what: str
    remedy: str = ""


def judged(name: str, what: str, *problems: tuple[bool, str, str, str]) -> Finding:
    """The first problem there is, or that all is well.

    what: said when there is none
    problems: whether it is one, state, what is wrong, what to do
    """
    for is_wrong, state, wrong, remedy in problems:
        if is_wrong:
            return Finding(name, state, wrong, remedy)
    return Finding(name, OK, what)
