"""Organizations: one owner each, and a change that every process hears of."""

from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import tenancy
from saas_api.core.ids import read_id
from saas_api.core.limits import generation_key, storage
from saas_api.organizations import service as organizations
from tests.people import sign_up


def test_two_organizations_of_one_name_have_their_own_slugs(client: FlaskClient, app: Flask) -> None:
    owner = read_id("usr", sign_up(client, "alice@acme.example", "Acme").user_id)
    with app.app_context(), tenancy.as_system("auth.register") as session:
        slugs = {organizations.create(session, "Ünïted & Söns", owner).slug for _ in range(2)}
    assert len(slugs) == 2


def test_an_unknown_organization_is_not_found(context: Flask) -> None:
    with tenancy.as_system("auth.register") as session, pytest.raises(organizations.NoSuchOrganization):
        organizations.get(session, uuid4())


def test_a_change_is_told_after_the_commit_and_told_again_when_redis_forgot(
    context: Flask, client: FlaskClient
) -> None:
    organization_id = read_id("org", sign_up(client, "alice@acme.example", "Acme").organization_id)
    redis, key = storage().storage, generation_key(organization_id)
    with tenancy.transaction(organization_id) as session:
        organizations.changed(session, organization_id)
        assert redis.get(key) is None
    told = redis.get(key)
    assert told is not None
    redis.delete(key)
    organizations.publish_generations()
    assert redis.get(key) == told
