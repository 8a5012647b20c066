"""Builds the client once; without Node its tests are skipped."""

import pytest

from tests.support import node


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment of processes that use the built client."""
    environment = node.find_environment()
    if environment is None:
        pytest.skip(node.NONE_FOUND)
    node.build_client(environment)
    return environment
