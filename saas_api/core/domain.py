"""Declaration of a package: its id prefixes, permissions, scopes, system purposes and queue; and their registry."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Domain:
    """Declaration of a package; creating one registers it.

    id_prefixes: of its public ids: "key" for `key_...`
    permissions: roles that hold each permission `resource:verb`
    scopes: of API keys, and the permission that a user needs to grant each
    system_purposes: reasons of its transactions across organizations, each used in one file
    home_purposes: further ones, for what only the home cell has, such as users and the catalogue
    queue: its own queue, when its jobs must not wait behind others in the background queue
    is_service: it serves metered calls; the setting SERVICES can switch it off
    raises: ValueError when one of these names is registered already
    """

    name: str
    id_prefixes: tuple[str, ...] = ()
    permissions: Mapping[str, frozenset[str]] = field(default_factory=dict)
    scopes: Mapping[str, str] = field(default_factory=dict)
    system_purposes: tuple[str, ...] = ()
    home_purposes: tuple[str, ...] = ()
    queue: str | None = None
    is_service: bool = False

    def __post_init__(self) -> None:
        registry.add(self)


@dataclass(frozen=True)
class Registry:
    """Names that the imported packages declare."""

    domains: dict[str, Domain] = field(default_factory=dict)
    id_prefixes: set[str] = field(default_factory=set)
    permissions: dict[str, frozenset[str]] = field(default_factory=dict)
    scopes: dict[str, str] = field(default_factory=dict)
    system_purposes: set[str] = field(default_factory=set)
    home_purposes: set[str] = field(default_factory=set)
    queues: set[str] = field(default_factory=set)
    services: set[str] = field(default_factory=set)

    def add(self, domain: Domain) -> None:
        """Register a domain, or raise ValueError and register nothing of it."""
        queues = {domain.queue} if domain.queue else set()
        duplicates = {domain.name} & self.domains.keys()
        duplicates |= self.id_prefixes & set(domain.id_prefixes)
        duplicates |= self.permissions.keys() & domain.permissions.keys()
        duplicates |= self.scopes.keys() & domain.scopes.keys()
        system_purposes = {*domain.system_purposes, *domain.home_purposes}
        duplicates |= self.system_purposes & system_purposes
        duplicates |= self.queues & queues
        if duplicates:
            raise ValueError(f"{domain.name} registers again: {', '.join(sorted(duplicates))}")
        self.domains[domain.name] = domain
        self.id_prefixes.update(domain.id_prefixes)
        self.permissions.update(domain.permissions)
        self.scopes.update(domain.scopes)
        self.system_purposes.update(system_purposes)
        self.home_purposes.update(domain.home_purposes)
        self.queues.update(queues)
        self.services.update({domain.name} if domain.is_service else ())


registry = Registry()
