"""The organizations of the demo, and the credentials of their users, which are stored in the instance."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

from saas_api.core.settings import setting

PLATFORM = "the platform"


_FURTHER = (
    ("Initech", "Africa/Lagos", "starter", "decline_first"),
    ("Umbrella Health", "Asia/Singapore", "pro", "never"),
    ("Hooli", "America/Los_Angeles", "scale", "pay"),
    ("Stark Logistics", "Australia/Sydney", "starter", "pay"),
    ("Wayne Foods", "Europe/London", "free", "pay"),
    ("Tyrell", "Asia/Tokyo", "pro", "pay"),
)


@dataclass(frozen=True)
class DemoLogin:
    """Credentials of one user; the organization of an operator is PLATFORM."""

    email: str
    password: str
    role: str
    organization: str


@dataclass(frozen=True)
class DemoCredentials:
    """Everything that is needed to try the demo.

    key: a live API key of the first organization
    keys: a live API key of each organization, by its name
    options: those the data was created with
    """

    logins: list[DemoLogin]
    key: str
    keys: dict[str, str] = field(default_factory=dict)
    options: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DemoOrganization:
    """An organization of the demo.

    users: (name, role), the owner first
    plan: from the first day on
    later_plan: from the middle of the time on
    weight: its share of all messages is its part of the sum of weights
    payment_behavior: "pay", "decline_first", "wrong_first" or "never", for its newest invoice
    terms_days: payment terms of its invoices
    """

    name: str
    domain: str
    users: tuple[tuple[str, str], ...]
    zone: str
    plan: str
    later_plan: str | None
    weight: float
    payment_behavior: str = "pay"
    terms_days: int = 7


_ACME = DemoOrganization(
    "Acme",
    "acme.example",
    (("Alice", "owner"), ("Bob", "member"), ("Dora", "admin"), ("Eve", "billing"), ("Frank", "viewer")),
    "Europe/Berlin",
    "starter",
    "pro",
    6.0,
    "never",
    30,
)
_CAROL = DemoOrganization("Carol & Co", "carol.example", (("Carol", "owner"),), "America/New_York", "free", None, 0.5)
_GLOBEX = DemoOrganization(
    "Globex", "globex.example", (("Grace", "owner"), ("Heidi", "admin")), "UTC", "pro", None, 3.0, "wrong_first"
)


def iter_organizations() -> Iterator[DemoOrganization]:
    """Organizations without end; after the named ones, names repeat with a number."""
    yield from (_ACME, _CAROL, _GLOBEX)
    for index in count():
        name, zone, plan, payment_behavior = _FURTHER[index % len(_FURTHER)]
        number = index // len(_FURTHER) + 1
        suffix = str(number) if number > 1 else ""
        yield DemoOrganization(
            f"{name} {suffix}".strip(),
            f"{name.split()[0].lower()}{suffix}.example",
            (("Ivan", "owner"), ("Judy", "member")),
            zone,
            plan,
            None,
            1.0 / number,
            payment_behavior,
        )


def load_credentials() -> DemoCredentials | None:
    """The credentials that an earlier seed stored in the instance; None without one."""
    path = _path()
    if not path.exists():
        return None
    logins, *others = json.loads(path.read_text(encoding="utf-8")).values()  # in the order of the fields
    return DemoCredentials([DemoLogin(*login.values()) for login in logins], *others)


def save_credentials(credentials: DemoCredentials) -> None:
    """Store credentials in the instance, readable by its owner only."""
    path = _path()
    path.touch(mode=0o600)
    path.write_text(json.dumps(asdict(credentials), indent=1), encoding="utf-8")


def _path() -> Path:
    return Path(setting("INSTANCE")) / "demo.json"
