"""Organizations: one owner each, and a change that every process hears of."""

from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import organizations
from saas_api.accounts.organizations import OrganizationNotFound
from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.limits import limiter
from tests.support.accounts import sign_up


def test_two_organizations_of_one_name_have_their_own_slugs(client: FlaskClient, app: Flask) -> None:
    owner = ids.parse_id("usr", sign_up(client, "alice@acme.example", "Acme").user_id)
    with app.app_context(), tenancy.system_session("auth.register") as session:
        slugs = {organizations.create(session, "Ünïted & Söns", owner).slug for _ in range(2)}
    assert len(slugs) == 2


def test_an_unknown_organization_is_not_found(context: Flask) -> None:
    with tenancy.system_session("auth.register") as session, pytest.raises(OrganizationNotFound):
        organizations.get(session, uuid4())


def test_a_change_is_told_after_the_commit_and_told_again_when_redis_forgot(
    context: Flask, client: FlaskClient
) -> None:
    organization_id = ids.parse_id("org", sign_up(client, "alice@acme.example", "Acme").organization_id)
    redis, key = limiter.get_storage().storage, limiter.generation_key(organization_id)
    with tenancy.tenant_session(organization_id) as session:
        organizations.bump_generation(session, organization_id)
        assert redis.get(key) is None
    told = redis.get(key)
    assert told is not None
    redis.delete(key)
    organizations.republish_generations()
    assert redis.get(key) == told
