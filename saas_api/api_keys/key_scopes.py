"""Scopes that keys can have: those of this application and of services, and full access, which is all of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from saas_api.core import access
from saas_api.core.access import FULL_ACCESS, SCOPES, Principal
from saas_api.core.errors import Forbidden, ValidationFailed
from saas_api.services import catalogue, services


class ScopeBeyondRole(Forbidden):
    """A key may not do more than the person who makes or changes it."""

    message = "Your role does not allow you to give a key these scopes."


@dataclass(frozen=True)
class OfferedScopes:
    """Scopes that a key can be given now, by the resource or the service that they are of.

    by_resource: the resources of this application, then the services, each sorted by name
    """

    by_resource: Mapping[str, Sequence[str]]

    @property
    def names(self) -> frozenset[str]:
        """All of them."""
        return frozenset(scope for scopes in self.by_resource.values() for scope in scopes)

    def expand(self, scopes: Collection[str]) -> Sequence[str]:
        """The scopes of a key, sorted; with full access all that are offered."""
        return sorted(self.names if FULL_ACCESS in scopes else scopes)


def list_offered(generation: int | None) -> OfferedScopes:
    """The scopes of this application that are served, and those of every service that is not revoked.

    generation: of the catalogue, as for `CachedCatalogue.get_entry`
    """
    by_resource: dict[str, list[str]] = {}
    for scope in sorted(SCOPES):
        if access.is_served(scope):
            by_resource.setdefault(scope.partition(":")[0], []).append(scope)
    return OfferedScopes({**by_resource, **services.cached_scopes(generation)})


def list_offered_now() -> OfferedScopes:
    """As `list_offered`, with every change of the services that is committed."""
    return list_offered(catalogue.read_generation())


def check_known(scopes: Collection[str], offered: OfferedScopes, held: Collection[str] = ()) -> None:
    """Check that scopes are offered, or that the key has them already: those of a revoked service stay.

    raises: ValidationFailed
    """
    unknown = sorted(set(scopes) - offered.names - set(held))
    if unknown:
        choices = ", ".join(sorted(offered.names))
        raise ValidationFailed.at_field("scopes", f"{', '.join(unknown)}: no such scope. Must be one of: {choices}.")


def require_may_grant(principal: Principal, scopes: Collection[str]) -> None:
    """Check that a user may give a key scopes.

    scopes: as they are stored, so also FULL_ACCESS
    raises: ScopeBeyondRole
    """
    named = [scope for scope in SCOPES if access.is_served(scope)] if FULL_ACCESS in scopes else scopes
    beyond = sorted(scope for scope in named if not access.can_grant_scope(principal, scope))
    if beyond:
        raise ScopeBeyondRole(details={"scopes": beyond})
