"""Benchmarks fail on wrong rows, and compare variants within a round."""

import pytest

from bench import targets, turns
from bench.load import Call
from bench.targets import Target
from bench.turns import Measurement, Turns, Variant
from tests.support.web_server import WebServer


def make_measurement(per_second: float, web_us: float) -> Measurement:
    return Measurement(100, per_second, p50_ms=2, p99_ms=6, web_us=web_us, database_us=0, redis_us=0, load_us=1)


def make_turns(*rows: int) -> Turns:
    call = Call(WebServer(None, 0), "/", "{}", {})  # type: ignore[arg-type]  # it is never sent
    return Turns("send", None, {"product": Variant(call, lambda: rows)})  # type: ignore[arg-type]  # nothing is measured


@pytest.mark.parametrize("rows", [(3, 2), (2, 3), (3, 4), (2, 2)])
def test_benchmark_fails_when_rows_are_not_those_of_the_answers(rows: tuple[int, int]) -> None:
    send = make_turns(*rows)
    send.accepted["product"] = 3
    with pytest.raises(RuntimeError, match="3 answers left"):
        send.check_rows()


def test_benchmark_accepts_one_row_in_each_table_for_an_answer() -> None:
    send = make_turns(3, 3)
    send.accepted["product"] = 3
    send.check_rows()


def test_ratio_is_the_median_of_those_within_a_round() -> None:
    measurements = {
        ("no-op", 16): [make_measurement(1000, 100), make_measurement(100, 300), make_measurement(1000, 100)],
        ("product", 16): [make_measurement(500, 200), make_measurement(50, 600), make_measurement(300, 400)],
    }
    _, product = turns.summarize(measurements)
    assert product["rate_to"]["no-op"] == [0.3, 0.5, 0.5]
    assert product["cpu_to"]["no-op"] == [2, 2, 4]
    assert "textbook" not in product["rate_to"]


def test_target_of_a_benchmark_that_did_not_run_has_no_figure() -> None:
    assert {target.read({}) for target in targets.TARGETS} == {None}


def test_target_at_its_limit_is_met() -> None:
    least, most = (Target("sends", lambda _: 3, 3, is_least=is_least) for is_least in (True, False))
    assert least.is_met(3)
    assert not least.is_met(2.9)
    assert most.is_met(3)
    assert not most.is_met(3.1)
