"""What a plan offers, as a document that people write and read, and what differs between two of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saas_api.billing.rules.rating import Price, Tier
from saas_api.core.money import minor_to_text, unit_price_text

RATE_LIMIT = "rate_limit_per_minute"
RATE_LIMIT_SETTING = "RATE_LIMIT_PER_MINUTE"


@dataclass(frozen=True)
class MeterShape:
    """A meter as all plans share it."""

    code: str
    name: str
    unit: str
    reverse_on_failure: bool = True


@dataclass(frozen=True)
class Right:
    """What a plan allows besides what it charges.

    value: JSON-ready; of a metered right {"meter", "limit"}
    """

    kind: str
    value: Any


@dataclass(frozen=True)
class PlanContent:
    """A plan and everything that one version of it says.

    position: in the catalogue; None where it stays as it is, or goes to the end
    is_public: None where it stays as it is; a new plan is public
    """

    code: str
    name: str
    currency: str
    base_amount_minor: int
    min_spend_minor: int
    prices: Mapping[str, Price]
    rights: Mapping[str, Right]
    position: int | None = None
    is_public: bool | None = None
    meters: Sequence[MeterShape] = field(default_factory=tuple)


@dataclass(frozen=True)
class Difference:
    """One place in which two documents differ.

    before: None where there was nothing; after: None where nothing is left
    """

    path: str
    before: Any
    after: Any


def document(content: PlanContent) -> dict[str, Any]:
    """The plan as its file says it, every amount a string; reading it gives the same plan."""
    currency = content.currency
    written: dict[str, Any] = {"plan": content.code, "name": content.name}
    if content.position is not None:
        written["position"] = content.position
    if content.is_public is not None:
        written["is_public"] = content.is_public
    written |= {"currency": currency, "base_amount": minor_to_text(content.base_amount_minor, currency)}
    if content.min_spend_minor:
        written["min_spend"] = minor_to_text(content.min_spend_minor, currency)
    if content.meters:
        written["meters"] = [vars(meter).copy() for meter in content.meters]
    written["prices"] = {meter: _price(price, currency) for meter, price in sorted(content.prices.items())}
    written["entitlements"] = {feature: right.value for feature, right in sorted(content.rights.items())}
    return written


def _price(price: Price, currency: str) -> dict[str, Any]:
    written: dict[str, Any] = {"model": price.model}
    if price.included_quantity:
        written["included"] = unit_price_text(price.included_quantity)
    match price.model:
        case "per_unit":
            written["unit_price"] = unit_price_text(price.unit_price)
        case "package":
            written["package"] = {
                "size": unit_price_text(price.package_size),
                "amount": minor_to_text(price.package_amount_minor, currency),
            }
        case _:
            written["tiers"] = [_tier(tier, currency) for tier in price.tiers]
    if price.max_amount_minor is not None:
        written["max_amount"] = minor_to_text(price.max_amount_minor, currency)
    return written


def _tier(tier: Tier, currency: str) -> dict[str, Any]:
    written: dict[str, Any] = {
        "up_to": None if tier.up_to is None else unit_price_text(tier.up_to),
        "unit_price": unit_price_text(tier.unit_price),
    }
    if tier.flat_minor:
        written["flat_amount"] = minor_to_text(tier.flat_minor, currency)
    return written


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Every leaf in which two documents differ, in the order of the later one."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    paths = [*new, *(path for path in old if path not in new)]
    return [Difference(path, old.get(path), new.get(path)) for path in paths if old.get(path) != new.get(path)]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    parts: Iterator[tuple[object, Any]]
    if isinstance(value, Mapping):
        parts = iter(value.items())
    elif isinstance(value, list):
        parts = iter(enumerate(value))
    else:
        yield path, value
        return
    for name, part in parts:
        yield from _leaves(part, f"{path}.{name}" if path else str(name))
