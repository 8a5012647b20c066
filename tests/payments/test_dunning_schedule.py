"""Steps of a dunning run from the due date, their delays, and the standing they lead to."""

from datetime import UTC, datetime, timedelta

import pytest

from saas_api.payments import dunning_schedule

DUE = datetime(2026, 5, 15, 1, tzinfo=UTC)


def test_seven_steps_run_on_their_days_after_the_due_date() -> None:
    assert [(step.day, step.action) for step in dunning_schedule.plan_steps(DUE)] == [
        (0, "remind"),
        (3, "remind"),
        (5, "warn"),
        (7, "restrict"),
        (10, "remind"),
        (14, "suspend"),
        (30, "write_off"),
    ]
    assert all(step.run_at == DUE + timedelta(days=step.day) for step in dunning_schedule.plan_steps(DUE))
    assert [step.ordinal for step in dunning_schedule.plan_steps(DUE)] == list(range(1, 8))


@pytest.mark.parametrize(
    ("late", "moved"),
    [
        (timedelta(0), timedelta(0)),
        (timedelta(hours=24), timedelta(0)),
        (timedelta(hours=24, microseconds=1), timedelta(hours=24, microseconds=1)),
        (timedelta(days=9), timedelta(days=9)),
    ],
)
def test_delay_of_more_than_a_day_moves_later_steps(late: timedelta, moved: timedelta) -> None:
    assert dunning_schedule.later_steps_shift(DUE, DUE + late) == moved


@pytest.mark.parametrize(
    ("actions", "standing"),
    [
        ([], "good"),
        (["remind", "warn"], "good"),
        (["restrict", "remind"], "restricted"),
        (["suspend", "restrict"], "suspended"),
        (["suspend", "write_off"], "suspended"),
    ],
)
def test_most_severe_step_decides_the_standing(actions: list[str], standing: str) -> None:
    assert dunning_schedule.standing_after(actions) == standing
