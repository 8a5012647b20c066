"""The companies and their people."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

from saas_api.core.settings import setting

PLATFORM_COMPANY = "the platform"


@dataclass(frozen=True)
class DemoLogin:
    """One person of the demo; an operator's company is the platform."""

    email: str
    password: str
    role: str
    company: str


@dataclass(frozen=True)
class DemoCredentials:
    """What a newcomer needs to try the demo.

    key: of the first company
    keys: a live one of each company, by its name
    wish: the options the data was made with; empty for people alone
    """

    logins: list[DemoLogin]
    key: str
    keys: dict[str, str] = field(default_factory=dict)
    wish: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DemoCompany:
    """What a company of the demo is like.

    plan: what it is on from its first day
    later: what it goes over to in the middle of the time
    weight: its share of all messages is its part of the sum of weights
    pays: "pay", "decline_first", "wrong_first" or "never": what becomes of its newest invoice
    terms_days: it has to pay an invoice
    """

    name: str
    domain: str
    people: tuple[tuple[str, str], ...]
    zone: str
    plan: str
    later: str | None
    weight: float
    pays: str = "pay"
    terms_days: int = 7

    @property
    def team(self) -> tuple[str, ...]:
        """Addresses of its people, the owner's first."""
        return tuple(f"{name.lower()}@{self.domain}" for name, _ in self.people)


_ACME = DemoCompany(
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
_CAROL = DemoCompany("Carol & Co", "carol.example", (("Carol", "owner"),), "America/New_York", "free", None, 0.5)
_GLOBEX = DemoCompany(
    "Globex", "globex.example", (("Grace", "owner"), ("Heidi", "admin")), "UTC", "pro", None, 3.0, "wrong_first"
)
_FURTHER_COMPANIES = (
    ("Initech", "Africa/Lagos", "starter", "decline_first"),
    ("Umbrella Health", "Asia/Singapore", "pro", "never"),
    ("Hooli", "America/Los_Angeles", "scale", "pay"),
    ("Stark Logistics", "Australia/Sydney", "starter", "pay"),
    ("Wayne Foods", "Europe/London", "free", "pay"),
    ("Tyrell", "Asia/Tokyo", "pro", "pay"),
)


def iter_companies() -> Iterator[DemoCompany]:
    """One company after the other, without end."""
    yield from (_ACME, _CAROL, _GLOBEX)
    for number in count():
        name, zone, plan, pays = _FURTHER_COMPANIES[number % len(_FURTHER_COMPANIES)]
        again = number // len(_FURTHER_COMPANIES)
        full = f"{name} {again + 1}" if again else name
        domain = f"{name.split()[0].lower()}{again + 1 if again else ''}.example"
        yield DemoCompany(
            full, domain, (("Ivan", "owner"), ("Judy", "member")), zone, plan, None, 1.0 / (again + 1), pays
        )


def load_credentials() -> DemoCredentials | None:
    """What an earlier seed left in the instance."""
    path = _path()
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    logins = [DemoLogin(**login) for login in found["logins"]]
    return DemoCredentials(logins, found["key"], found.get("keys", {}), found.get("wish", {}))


def save_credentials(facts: DemoCredentials) -> None:
    """Write passwords and keys into the instance, for its owner's eyes."""
    path = _path()
    path.touch(mode=0o600)
    path.write_text(json.dumps(asdict(facts), indent=1), encoding="utf-8")


def _path() -> Path:
    return Path(setting("INSTANCE")) / "demo.json"
