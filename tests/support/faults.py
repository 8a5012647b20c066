"""Interruption of this process at a fault point of the product."""

from collections.abc import Callable

import pytest

from saas_api.core import faults

InjectFault = Callable[[str], None]


@pytest.fixture
def inject_fault(monkeypatch: pytest.MonkeyPatch) -> InjectFault:
    """A function that raises or sleeps once at a fault point: `inject_fault("mail.after_claim:raise")`."""

    def inject(fault: str) -> None:
        monkeypatch.setattr(faults, "active_fault", [fault])
        monkeypatch.setattr(faults, "_hits", {})

    return inject
