"""Meters: files and their problems, publication, what is fixed once there is usage, and what an event counts."""

import threading
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.core.document_reader import InvalidDocument
from saas_api.services import catalogue
from saas_api.usage import meter_file, meters, rollups
from saas_api.usage.ledger import UsageRecord
from saas_api.usage.meter_file import Aggregation, MeterContent
from saas_api.usage.rollups import LIVE_USAGE_SQL
from tests.support.billing import BillingOrganization, create_organization
from tests.support.ledger import USAGE_COLUMNS, append_sql

TOKENS = {
    "code": "llm.tokens",
    "name": "Tokens",
    "unit": "token",
    "description": "Tokens that a model read and wrote.",
    "service": "assistant",
    "aggregation": "sum",
    "value_property": "tokens",
    "dimensions": ["model", "direction"],
    "reverse_on_failure": False,
}


def changed(**changes: Any) -> dict[str, Any]:
    """The meter file with changed fields; None removes a field."""
    return {name: value for name, value in {**TOKENS, **changes}.items() if value is not None}


def problems(document: Any) -> dict[str, str]:
    with pytest.raises(InvalidDocument) as caught:
        meter_file.load_meter(document)
    paths = [path for path, _ in caught.value.problems]
    assert len(paths) == len(set(paths))
    return dict(caught.value.problems)


def meter(code: str) -> MeterContent:
    with tenancy.system_session("usage.meters") as session:
        return meters.meter_content(meters.get_meter(session, code))


def test_meter_file_is_read_back_as_it_was_written() -> None:
    content = meter_file.load_meter(TOKENS)
    assert meter_file.to_document(content) == TOKENS
    assert (content.dimensions, content.aggregation) == (("model", "direction"), Aggregation.SUM)
    short = {"code": "calls", "name": "Calls", "unit": "call", "aggregation": "count"}
    assert meter_file.to_document(meter_file.load_meter(short)) == short


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ([], ""),
        (changed(code=None), "code"),
        (changed(code="LLM"), "code"),
        (changed(name=" "), "name"),
        (changed(unit="a\nb"), "unit"),
        (changed(description="x" * 301), "description"),
        (changed(description=5), "description"),
        (changed(service="My service"), "service"),
        (changed(aggregation="average"), "aggregation"),
        (changed(aggregation="count"), "value_property"),
        (changed(aggregation="unique", value_property=None), "unique_property"),
        (changed(unique_property="user"), "unique_property"),
        (changed(value_property="to kens"), "value_property"),
        (changed(value_property="quantity"), "value_property"),
        (changed(dimensions="model"), "dimensions"),
        (changed(dimensions=["a", "b", "c", "d", "e", "f"]), "dimensions"),
        (changed(dimensions=["a", None]), "dimensions.1"),
        (changed(dimensions=["a", "a"]), "dimensions.1"),
        (changed(reverse_on_failure="no"), "reverse_on_failure"),
        (changed(colour="red"), "colour"),
    ],
)
def test_each_problem_is_reported_with_its_path(document: Any, path: str) -> None:
    assert set(problems(document)) == {path}


def test_all_problems_are_reported_at_once() -> None:
    assert set(problems({"code": 1, "unit": "", "aggregation": [], "x": 1})) == {
        "code",
        "name",
        "unit",
        "aggregation",
        "x",
    }


def test_meter_is_published_once_and_changes_are_audited(context: Flask) -> None:
    first = meters.publish_meter(TOKENS, SYSTEM_ACTOR)
    assert (first.is_new, set(first.changes)) == (True, set(TOKENS))
    assert meters.publish_meter(TOKENS, SYSTEM_ACTOR).changes == ()
    renamed = meters.publish_meter(changed(name="LLM tokens"), SYSTEM_ACTOR)
    assert (renamed.is_new, renamed.changes) == (False, ("name",))
    assert meter("llm.tokens") == meter_file.load_meter(changed(name="LLM tokens"))
    with tenancy.system_session("billing.close") as session:
        events = session.execute(text("SELECT action, target_id, data FROM audit_events ORDER BY at")).all()
    assert [tuple(event)[:2] for event in events] == [
        ("meter.published", "llm.tokens"),
        ("meter.changed", "llm.tokens"),
    ]
    assert events[1].data == {"changes": {"name": ["Tokens", "LLM tokens"]}}


@pytest.fixture
def used(context: Flask) -> BillingOrganization:
    """An organization that has used the meter of tokens."""
    meters.publish_meter(TOKENS, SYSTEM_ACTOR)
    organization = create_organization()
    organization.use(3, "llm.tokens")
    return organization


@pytest.mark.parametrize(
    "changes",
    [
        {"aggregation": "max"},
        {"value_property": "count"},
        {"value_property": None},
        {"aggregation": "unique", "value_property": None, "unique_property": "user"},
        {"unit": "word"},
    ],
)
def test_meter_with_usage_keeps_what_gives_its_usage_meaning(
    used: BillingOrganization, changes: dict[str, Any]
) -> None:
    with pytest.raises(meters.MeterHasUsage) as caught:
        meters.publish_meter(changed(name="Other", **changes), SYSTEM_ACTOR)
    assert (caught.value.status, caught.value.code) == (409, "METER_HAS_USAGE")
    assert meter("llm.tokens") == meter_file.load_meter(TOKENS)


def test_meter_with_usage_may_change_its_words_and_dimensions(used: BillingOrganization) -> None:
    changes = {"name": "LLM tokens", "description": "All of them.", "dimensions": ["model"]}
    assert set(meters.publish_meter(changed(**changes), SYSTEM_ACTOR).changes) == set(changes)


def test_changed_dimensions_group_new_usage_and_rebuilt_rollups(context: Flask) -> None:
    meters.publish_meter(changed(dimensions=["model"]), SYSTEM_ACTOR)
    organization = create_organization()
    record_tokens(organization, "first")
    rollups.rebuild_rollups()
    meters.publish_meter(changed(dimensions=["direction"]), SYSTEM_ACTOR)
    record_tokens(organization, "second")
    groups = f"WITH live AS ({LIVE_USAGE_SQL}) SELECT dimensions, quantity FROM live ORDER BY dimensions"
    with organization.transaction() as session:
        live = session.execute(text(groups), {"organization_id": organization.id}).all()
    assert [tuple(row) for row in live] == [({"direction": "in"}, 1), ({"model": "small"}, 1)]
    rollups.rebuild_rollups()
    assert [tuple(row) for row in organization.rows("SELECT dimensions, quantity FROM usage_rollups")] == [
        ({"direction": "in"}, 2)
    ]


def record_tokens(organization: BillingOrganization, key: str) -> None:
    properties = {"model": "small", "direction": "in", "tokens": 1}
    organization.record(
        UsageRecord(ids.new_id(), "assistant", key, "llm.tokens", 1, clock.now(), properties=properties)
    )


def test_change_waits_for_usage_that_is_being_recorded(context: Flask, app: Flask) -> None:
    """The trigger locks the meter, so that it sees usage of a transaction that began before the change."""
    meters.publish_meter(TOKENS, SYSTEM_ACTOR)
    organization = create_organization()
    organization.use(1)  # opens the period
    outcome: list[Any] = []

    def change() -> None:
        with app.app_context():
            try:
                outcome.append(meters.publish_meter(changed(unit="word"), SYSTEM_ACTOR))
            except meters.MeterHasUsage as error:
                outcome.append(error)

    thread = threading.Thread(target=change)
    with organization.transaction() as session:
        session.execute(
            text(
                append_sql(
                    USAGE_COLUMNS,
                    """SELECT organization_id, 'assistant', 'race', 'llm.tokens', 1, occurred_at, billing_period_id,
                      month FROM usage_events""",
                )
            )
        )
        thread.start()
        wait_for_lock(session)
        assert outcome == []
    thread.join(10)
    assert [type(result) for result in outcome] == [meters.MeterHasUsage]


def wait_for_lock(session: Any) -> None:
    """Wait until a transaction waits for a row that this session has locked."""
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))")
    for _ in range(10_000):
        if session.scalar(waiting):
            return
    pytest.fail("Nothing waits for the lock.")


def test_archived_meter_takes_no_usage_until_it_is_restored(context: Flask) -> None:
    meters.publish_meter(TOKENS, SYSTEM_ACTOR)
    assert meters.archive_meter("llm.tokens", SYSTEM_ACTOR, "replaced")
    assert not meters.archive_meter("llm.tokens", SYSTEM_ACTOR, "again")
    with tenancy.system_session("usage.meters") as session:
        assert "llm.tokens" not in meters.active_meters(session)
        assert "llm.tokens" in meters.all_meters(session)
    assert meters.archive_meter("llm.tokens", SYSTEM_ACTOR, is_undone=True)
    with tenancy.system_session("usage.meters") as session:
        assert meters.active_meters(session)["llm.tokens"] == meter_file.load_meter(TOKENS)
    with pytest.raises(meters.MeterNotFound):
        meters.archive_meter("fax", SYSTEM_ACTOR)


def test_cached_meters_follow_the_catalogue(context: Flask) -> None:
    generation = catalogue.read_generation()
    assert "llm.tokens" not in meters.cached_meters(generation)
    meters.publish_meter(TOKENS, SYSTEM_ACTOR)
    assert meters.cached_meters(catalogue.read_generation())["llm.tokens"] == meter_file.load_meter(TOKENS)
    meters.archive_meter("llm.tokens", SYSTEM_ACTOR)
    assert "llm.tokens" not in meters.cached_meters(catalogue.read_generation())


@pytest.mark.parametrize(
    ("name", "unit", "plural", "in_text"),
    [
        ("SMS", "segment", "SMS segments", "SMS segments"),
        ("Email", "message", "Email messages", "email messages"),
        ("Lookups", "lookup", "Lookups", "lookups"),
        ("Input tokens", "token", "Input tokens", "input tokens"),
        ("Storage", "GB", "Storage GB", "storage GB"),
    ],
)
def test_meter_is_named_by_its_name_and_unit(name: str, unit: str, plural: str, in_text: str) -> None:
    content = MeterContent("m", name, unit)
    assert (content.plural, meter_file.in_text(content.plural)) == (plural, in_text)


def meter_of(aggregation: str, **fields: str) -> MeterContent:
    return meter_file.load_meter({"code": "m", "name": "M", "unit": "unit", "aggregation": aggregation, **fields})


@pytest.mark.parametrize(
    ("content", "quantity", "properties", "expected"),
    [
        (meter_of("sum"), None, {}, (Decimal(1), None)),
        (meter_of("sum"), Decimal("2.5"), {}, (Decimal("2.5"), None)),
        (meter_of("count"), Decimal(7), {}, (Decimal(1), None)),
        (meter_of("sum", value_property="n"), Decimal(7), {"n": 3}, (Decimal(3), None)),
        (meter_of("max", value_property="n"), None, {"n": "0.000001"}, (Decimal("0.000001"), None)),
        (meter_of("latest", value_property="n"), None, {"n": 0.1}, (Decimal("0.1"), None)),
        (meter_of("unique", unique_property="user"), Decimal(7), {"user": "ann"}, (Decimal(1), "ann")),
        (meter_of("unique", unique_property="user"), None, {"user": 42}, (Decimal(1), "42")),
        (meter_of("unique", unique_property="user"), None, {"user": True}, (Decimal(1), "true")),
    ],
)
def test_event_counts_what_its_meter_says(
    content: MeterContent, quantity: Decimal | None, properties: dict[str, Any], expected: tuple[Decimal, str | None]
) -> None:
    assert meters.event_quantity(content, quantity, properties) == expected


@pytest.mark.parametrize("properties", [{}, {"n": None}])
@pytest.mark.parametrize("content", [meter_of("max", value_property="n"), meter_of("unique", unique_property="n")])
def test_event_without_the_property_of_its_meter_is_refused(content: MeterContent, properties: dict[str, Any]) -> None:
    with pytest.raises(meters.MissingProperty) as caught:
        meters.event_quantity(content, Decimal(1), properties)
    assert caught.value.details == {"property": "n"}


def invalid_quantity(content: MeterContent, quantity: Decimal | None, properties: dict[str, Any]) -> None:
    with pytest.raises(meters.InvalidQuantity):
        meters.event_quantity(content, quantity, properties)


@pytest.mark.parametrize("quantity", ["0", "-1", "NaN", "Infinity", "1000000000001", "0.0000001", "1e400"])
def test_quantity_outside_its_bounds_is_refused(quantity: str) -> None:
    invalid_quantity(meter_of("sum"), Decimal(quantity), {})


@pytest.mark.parametrize(
    "value", [0, -1, "", "1e3", " 1", "1_0", "٣", True, [1], {"a": 1}, 1e-9, float("inf"), 10**400]
)
def test_value_that_is_no_quantity_is_refused(value: Any) -> None:
    invalid_quantity(meter_of("sum", value_property="n"), None, {"n": value})


@pytest.mark.parametrize("value", ["", "x" * 256, "a\0b", ["a"], {"a": 1}])
def test_value_that_cannot_be_told_apart_is_refused(value: Any) -> None:
    invalid_quantity(meter_of("unique", unique_property="n"), None, {"n": value})
