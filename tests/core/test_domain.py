"""Declarations of packages: each name belongs to one package."""

import pytest

from saas_api.core import domain
from saas_api.core.domain import Domain
from saas_api.core.roles import ALL_ROLES


@pytest.mark.parametrize(
    "duplicate",
    [
        {"id_prefixes": ("new", "msg")},
        {"permissions": {"messages:read": ALL_ROLES}},
        {"scopes": {"messages:write": "messages:test"}},
        {"system_purposes": ("billing.close",)},
        {"queue": "messages"},
    ],
)
def test_name_of_another_domain_is_rejected(duplicate: dict) -> None:
    with pytest.raises(ValueError, match="planted registers again"):
        Domain(name="planted", **duplicate)
    assert "planted" not in domain.registry.domains
    assert "new" not in domain.registry.id_prefixes


def test_domain_is_registered_once() -> None:
    with pytest.raises(ValueError, match="messages registers again: messages"):
        Domain(name="messages")


def test_scopes_are_permissions() -> None:
    assert domain.registry.scopes.keys() <= domain.registry.permissions.keys()
    assert set(domain.registry.scopes.values()) <= domain.registry.permissions.keys()
