"""Marginal charges and the range in which they are constant."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from saas_api.billing.rating import charges
from saas_api.billing.rating.charges import MeterPrice, Tier

_UNIT = st.decimals(0, 1, places=4)
_INCLUDED = st.sampled_from([Decimal(0), Decimal(5), Decimal("7.5")])
_LIMIT = st.sampled_from([None, 50, 500])
_TIERS = st.builds(
    lambda bounds, prices, flats: tuple(
        Tier(bound, price, flat)
        for bound, price, flat in zip([*map(Decimal, sorted(bounds)), None], prices, flats, strict=False)
    ),
    st.sets(st.integers(1, 40), min_size=2, max_size=2),
    st.lists(_UNIT, min_size=3, max_size=3),
    st.lists(st.sampled_from([0, 0, 100]), min_size=3, max_size=3),
)
PRICES = st.one_of(
    st.builds(MeterPrice, st.just("per_unit"), included_quantity=_INCLUDED, unit_price=_UNIT, max_amount_minor=_LIMIT),
    st.builds(
        MeterPrice,
        st.sampled_from(["graduated", "volume"]),
        included_quantity=_INCLUDED,
        tiers=_TIERS,
        max_amount_minor=_LIMIT,
    ),
    st.builds(
        MeterPrice,
        st.just("package"),
        included_quantity=_INCLUDED,
        package_size=st.sampled_from([Decimal(1), Decimal(7)]),
        package_amount_minor=st.integers(0, 300),
        max_amount_minor=_LIMIT,
    ),
)


@given(PRICES, st.integers(0, 60), st.integers(1, 20))
def test_marginal_charges_add_up_to_the_charge(price: MeterPrice, known: int, units: int) -> None:
    steps = sum(
        (charges.marginal_charge(price, Decimal(n), Decimal(units)) for n in range(0, known * units, units)), Decimal(0)
    )
    assert steps == charges.exact_charge(price, Decimal(known * units))


@given(PRICES, st.integers(0, 60), st.integers(1, 20), st.integers(0, 60))
def test_marginal_charge_is_constant_within_its_bounds(price: MeterPrice, known: int, units: int, other: int) -> None:
    bounds = charges.constant_marginal_range(price, Decimal(known), Decimal(units))
    if bounds is None:
        return
    low, high = bounds
    assert low is None or low < known
    assert high is None or known <= high
    if (low is None or low < other) and (high is None or other <= high):
        assert charges.marginal_charge(price, Decimal(other), Decimal(units)) == charges.marginal_charge(
            price, Decimal(known), Decimal(units)
        )


def test_marginal_charge_that_crosses_a_tier_has_no_bounds() -> None:
    price = MeterPrice("per_unit", included_quantity=Decimal(1000), unit_price=Decimal("0.01"))
    assert charges.marginal_charge(price, Decimal(999), Decimal(3)) == 2
    assert charges.constant_marginal_range(price, Decimal(999), Decimal(3)) is None
    assert charges.constant_marginal_range(price, Decimal(10), Decimal(3)) == (None, Decimal(997))
    assert charges.constant_marginal_range(price, Decimal(1001), Decimal(3)) == (Decimal(1000), None)
