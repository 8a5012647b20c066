"""Organizations: slugs, and the published generation."""

from uuid import uuid4

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import organizations
from saas_api.accounts.organizations import OrganizationNotFound
from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.limits import limiter
from tests.support.accounts import sign_up


def test_organizations_of_the_same_name_have_different_slugs(client: FlaskClient, app: Flask) -> None:
    owner = ids.parse_id("usr", sign_up(client, "alice@acme.example", "Acme").user_id)
    with app.app_context(), tenancy.system_session("auth.register") as session:
        slugs = {organizations.create_organization(session, "Ünïted & Söns", owner).slug for _ in range(2)}
    assert len(slugs) == 2


def test_unknown_organization_is_not_found(context: Flask) -> None:
    with tenancy.system_session("auth.register") as session, pytest.raises(OrganizationNotFound):
        organizations.get_organization(session, uuid4())


def test_generation_is_published_after_commit_and_republished(
    context: Flask, client: FlaskClient, cache: redis.Redis
) -> None:
    organization_id = ids.parse_id("org", sign_up(client, "alice@acme.example", "Acme").organization_id)
    key = limiter.generation_key(organization_id)
    with tenancy.tenant_session(organization_id) as session:
        organizations.bump_generation(session, organization_id)
        assert cache.get(key) is None
    generation = cache.get(key)
    assert generation is not None
    cache.delete(key)
    organizations.republish_generations()
    assert cache.get(key) == generation
