"""Plan content as a JSON document: strict reading, writing, comparison."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any

from saas_api.billing.rating import charges
from saas_api.billing.rating.charges import MeterPrice, PriceModel, Tier
from saas_api.core import money
from saas_api.core.document_reader import DocumentReader
from saas_api.core.money import CURRENCY_EXPONENTS, DEFAULT_CURRENCY
from saas_api.usage import meter_file
from saas_api.usage.meter_file import MeterContent

RATE_LIMIT_FEATURE = "rate_limit_per_minute"
RATE_LIMIT_SETTING = "RATE_LIMIT_PER_MINUTE"
_FIELD_BY_PRICE_MODEL = {
    PriceModel.PER_UNIT: "unit_price",
    PriceModel.GRADUATED: "tiers",
    PriceModel.VOLUME: "tiers",
    PriceModel.PACKAGE: "package",
}
_PLAN = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_FEATURE = re.compile(r"[a-z][a-z0-9_]{0,62}")
_MAX_TIERS = 50
_MAX_VALUES = 100
_NO_PRICE = MeterPrice(PriceModel.PER_UNIT)
MAX_PERIOD_QUANTITY = Decimal(10**12)
"""The quantity of one meter, in its unit, with which a bill of a plan must not exceed `MAX_BILL_MINOR`."""
MAX_BILL_MINOR = 10**18
"""A ninth of what PostgreSQL can store as bigint: several plan versions and late usage may be on one bill."""


class EntitlementKind(StrEnum):
    """A switch, a configuration value, or a limit on a meter's quantity per period."""

    BOOLEAN = "boolean"
    CONFIG = "config"
    METERED = "metered"


@dataclass(frozen=True)
class EntitlementContent:
    """An entitlement of a plan version.

    value: JSON-ready; {"meter", "limit"} of a metered one
    """

    kind: EntitlementKind
    value: Any


@dataclass(frozen=True)
class PlanContent:
    """A plan and the content of one of its versions.

    prices: by meter
    entitlements: by feature
    position: in the list of plans; None leaves it unchanged and puts a new plan at the end
    is_public: None leaves it unchanged; a new plan is public
    """

    code: str
    name: str
    currency: str
    base_amount_minor: int
    min_spend_minor: int
    prices: Mapping[str, MeterPrice]
    entitlements: Mapping[str, EntitlementContent]
    position: int | None = None
    is_public: bool | None = None
    meters: Sequence[MeterContent] = field(default_factory=tuple)


@dataclass(frozen=True)
class PlanDifference:
    """A value that differs between two documents.

    before, after: None where the document does not have the path
    """

    path: str
    before: Any
    after: Any


def to_document(content: PlanContent) -> dict[str, Any]:
    """The document of a plan, amounts as strings; `load_plan` of it gives the same content."""
    currency = content.currency
    written: dict[str, Any] = {"plan": content.code, "name": content.name}
    if content.position is not None:
        written["position"] = content.position
    if content.is_public is not None:
        written["is_public"] = content.is_public
    written |= {"currency": currency, "base_amount": money.format_minor(content.base_amount_minor, currency)}
    if content.min_spend_minor:
        written["min_spend"] = money.format_minor(content.min_spend_minor, currency)
    if content.meters:
        written["meters"] = [meter_file.to_document(meter) for meter in content.meters]
    written["prices"] = {meter: _price(price, currency) for meter, price in sorted(content.prices.items())}
    written["entitlements"] = {
        feature: entitlement.value for feature, entitlement in sorted(content.entitlements.items())
    }
    return written


def _price(price: MeterPrice, currency: str) -> dict[str, Any]:
    if price.dimension is None:
        return _one_price(price, currency)
    values = {value: _one_price(own, currency) for value, own in sorted(price.by.items())}
    return {"by": {"dimension": price.dimension, "values": values, "default": _one_price(price, currency)}}


def _one_price(price: MeterPrice, currency: str) -> dict[str, Any]:
    """The price of one value of a dimension, or the only one."""
    written: dict[str, Any] = {"model": price.model}
    if price.included_quantity:
        written["included"] = money.format_unit_price(price.included_quantity)
    match price.model:
        case PriceModel.PER_UNIT:
            written["unit_price"] = money.format_unit_price(price.unit_price)
        case PriceModel.PACKAGE:
            written["package"] = {
                "size": money.format_unit_price(price.package_size),
                "amount": money.format_minor(price.package_amount_minor, currency),
            }
        case _:
            written["tiers"] = [_tier(tier, currency) for tier in price.tiers]
    if price.max_amount_minor is not None:
        written["max_amount"] = money.format_minor(price.max_amount_minor, currency)
    return written


def _tier(tier: Tier, currency: str) -> dict[str, Any]:
    written: dict[str, Any] = {
        "up_to": None if tier.up_to is None else money.format_unit_price(tier.up_to),
        "unit_price": money.format_unit_price(tier.unit_price),
    }
    if tier.flat_minor:
        written["flat_amount"] = money.format_minor(tier.flat_minor, currency)
    return written


def diff_documents(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[PlanDifference]:
    """Every differing leaf, in the order of the later document; removed paths come last."""
    old, new = dict(_flatten(before)), dict(_flatten(after))
    paths = [*new, *(path for path in old if path not in new)]
    return [PlanDifference(path, old.get(path), new.get(path)) for path in paths if old.get(path) != new.get(path)]


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    parts: Iterator[tuple[object, Any]]
    if isinstance(value, Mapping):
        parts = iter(value.items())
    elif isinstance(value, list):
        parts = iter(enumerate(value))
    else:
        yield path, value
        return
    for name, part in parts:
        yield from _flatten(part, f"{path}.{name}" if path else str(name))


def load_plan(
    document: Any, known_meters: Mapping[str, MeterContent], required_meters: Collection[str] = ()
) -> PlanContent:
    """Read a plan from its document.

    known_meters: existing meters by code
    required_meters: codes of those that every plan prices
    raises: InvalidDocument with every problem
    """
    reader = _PlanReader()
    content = reader.plan(document, known_meters, required_meters)
    reader.finish()
    for path, reason in _excessive_amounts(content):
        reader.report(path, reason)
    reader.finish()
    return content


def _excessive_amounts(content: PlanContent) -> Iterator[tuple[str, str]]:
    """Prices with which one period could cost more than can be stored; its invoice could never be written."""
    total = content.base_amount_minor + content.min_spend_minor
    prices = {
        f"prices.{meter}" + (f".by.values.{value}" if value else ""): price
        for meter, default in content.prices.items()
        for value, price in default.by_value.items()
    }
    for path, price in prices.items():
        highest = charges.highest_charge(price, MAX_PERIOD_QUANTITY)
        total += highest
        if highest > MAX_BILL_MINOR:
            limit = money.format_minor(MAX_BILL_MINOR, content.currency)
            yield (
                path,
                f"{MAX_PERIOD_QUANTITY:,f} units would cost more than {limit}; lower the price or add max_amount",
            )
            total -= highest
    if total > MAX_BILL_MINOR:
        limit = money.format_minor(MAX_BILL_MINOR, content.currency)
        yield "prices", f"{MAX_PERIOD_QUANTITY:,f} units of every meter would cost more than {limit} together"


class _PlanReader(DocumentReader):
    """Reads a plan; amounts are in its currency."""

    def __init__(self) -> None:
        super().__init__()
        self.currency = DEFAULT_CURRENCY

    def plan(
        self, document: Any, known_meters: Mapping[str, MeterContent], required_meters: Collection[str]
    ) -> PlanContent:
        required = ("plan", "name", "currency", "base_amount", "prices", "entitlements")
        values = self.object("", document, required, ("min_spend", "meters", "position", "is_public"))
        currency = values.get("currency", DEFAULT_CURRENCY)
        if isinstance(currency, str) and currency in CURRENCY_EXPONENTS:
            self.currency = currency
        else:
            self.report("currency", f"must be one of {', '.join(CURRENCY_EXPONENTS)}")
        meters = self.meters(values.get("meters", []), known_meters)
        all_meters = {**{meter.code: meter for meter in meters}, **known_meters}
        return PlanContent(
            self.code("plan", values.get("plan", "x"), _PLAN, "lower-case letters, digits, - and _"),
            self.text("name", values.get("name", "?"), 80),
            self.currency,
            self.amount("base_amount", values.get("base_amount", "0")),
            self.amount("min_spend", values.get("min_spend", "0")),
            self.prices(values.get("prices"), all_meters, required_meters),
            self.entitlements(values.get("entitlements"), all_meters),
            self.integer("position", values["position"], 1, 1000) if "position" in values else None,
            self.boolean("is_public", values["is_public"]) if "is_public" in values else None,
            meters,
        )

    def meters(self, items: Any, known_meters: Mapping[str, MeterContent]) -> list[MeterContent]:
        if not isinstance(items, list):
            self.report("meters", "must be a list")
            return []
        meters: dict[str, MeterContent] = {}
        for index, item in enumerate(items):
            path = f"meters.{index}"
            meter = meter_file.read_meter(self, path, item)
            known = known_meters.get(meter.code)
            if meter.code in meters:
                self.report(f"{path}.code", "is given twice")
            elif known and any(getattr(meter, name) != value for name, value in vars(known).items() if name in item):
                self.report(path, "this meter exists and is another; plans share their meters")
            meters[meter.code] = meter
        return list(meters.values())

    def prices(
        self, value: Any, meters: Mapping[str, MeterContent], required: Collection[str]
    ) -> dict[str, MeterPrice]:
        items = self.object("prices", {} if value is None else value, (), None)
        for meter in required:
            if value is not None and meter not in items:
                self.report(f"prices.{meter}", "is missing; every plan prices what the built-in services use")
        prices = {}
        for meter, item in items.items():
            if meter not in meters:
                self.report(f"prices.{meter}", "there is no such meter; describe a new one under meters")
            dimensions = meters[meter].dimensions if meter in meters else ()
            if isinstance(item, dict) and "by" in item:
                prices[meter] = self.price_by_dimension(f"prices.{meter}", item, dimensions)
            else:
                prices[meter] = self.price(f"prices.{meter}", item)
        return prices

    def price_by_dimension(self, path: str, item: dict[str, Any], dimensions: Sequence[str]) -> MeterPrice:
        fields_of_by = ("dimension", "values", "default")
        by = self.object(f"{path}.by", self.object(path, item, ("by",), ())["by"], fields_of_by, ())
        dimension = by.get("dimension")
        if "dimension" in by and dimension not in dimensions:
            names = ", ".join(dimensions) or "it has none"
            self.report(f"{path}.by.dimension", f"must be a dimension of the meter: {names}")
        values = self.object(f"{path}.by.values", by.get("values", {}), (), None)
        if isinstance(by.get("values"), dict) and not 1 <= len(values) <= _MAX_VALUES:
            self.report(f"{path}.by.values", f"must name 1 to {_MAX_VALUES} values")
        default = self.price(f"{path}.by.default", by["default"]) if "default" in by else _NO_PRICE
        prices = {
            self.text(f"{path}.by.values.{value}", value, 100): self.price(f"{path}.by.values.{value}", price)
            for value, price in values.items()
        }
        return replace(default, dimension=str(dimension), by=prices)

    def price(self, path: str, item: Any) -> MeterPrice:
        values = self.object(path, item, ("model",), ("included", "max_amount", *_FIELD_BY_PRICE_MODEL.values()))
        model = values.get("model")
        if not isinstance(model, str) or model not in tuple(PriceModel):
            if "model" in values:
                self.report(f"{path}.model", f"must be one of {', '.join(PriceModel)}")
            return _NO_PRICE
        own = _FIELD_BY_PRICE_MODEL[PriceModel(model)]
        for name in sorted(set(_FIELD_BY_PRICE_MODEL.values()) & set(values) - {own}):
            self.report(f"{path}.{name}", f"does not belong to a {model} price")
        if own not in values:
            self.report(f"{path}.{own}", "is missing")
        package_item = values.get("package", {"size": "1", "amount": "0"}) if own == "package" else {}
        package = self.object(f"{path}.package", package_item, ("size", "amount") if own == "package" else (), ())
        max_amount = values.get("max_amount")
        return MeterPrice(
            PriceModel(model),
            CURRENCY_EXPONENTS[self.currency],
            self.quantity(f"{path}.included", values.get("included", "0")),
            self.decimal(f"{path}.unit_price", values.get("unit_price", "0")),
            self.tiers(f"{path}.tiers", values["tiers"]) if own == "tiers" and own in values else (),
            self.quantity(f"{path}.package.size", package.get("size", "1"), is_positive=True),
            self.amount(f"{path}.package.amount", package.get("amount", "0")),
            None if max_amount is None else self.amount(f"{path}.max_amount", max_amount),
        )

    def tiers(self, path: str, items: Any) -> tuple[Tier, ...]:
        if not isinstance(items, list) or not 1 <= len(items) <= _MAX_TIERS:
            self.report(path, f"must be a list of 1 to {_MAX_TIERS} tiers")
            return ()
        tiers: list[Tier] = []
        for index, item in enumerate(items):
            tier_path, is_last = f"{path}.{index}", index == len(items) - 1
            values = self.object(tier_path, item, ("up_to", "unit_price"), ("flat_amount",))
            up_to = values.get("up_to")
            if "up_to" in values and (up_to is None) != is_last:
                self.report(f"{tier_path}.up_to", "must be null on the last tier, and only there")
            bound = None if up_to is None else self.quantity(f"{tier_path}.up_to", up_to, is_positive=True)
            floor = tiers[-1].up_to if tiers else None
            if bound is not None and floor is not None and bound <= floor:
                self.report(f"{tier_path}.up_to", "must be above that of the tier before")
            unit_price = self.decimal(f"{tier_path}.unit_price", values.get("unit_price", "0"))
            flat_minor = self.amount(f"{tier_path}.flat_amount", values.get("flat_amount", "0"))
            tiers.append(Tier(bound, unit_price, flat_minor))
        return tuple(tiers)

    def entitlements(self, value: Any, codes: Collection[str]) -> dict[str, EntitlementContent]:
        items = self.object("entitlements", {} if value is None else value, (), None)
        if value is not None and RATE_LIMIT_FEATURE not in items:
            self.report(f"entitlements.{RATE_LIMIT_FEATURE}", "is missing")
        limited_meters: set[str] = set()
        entitlements = {}
        for feature, item in items.items():
            path = f"entitlements.{feature}"
            if not _FEATURE.fullmatch(feature):
                self.report(path, "must be named in lower-case letters, digits and _")
            entitlement = entitlements[feature] = self.entitlement(path, feature, item, codes)
            if entitlement.kind == EntitlementKind.METERED:
                if entitlement.value["meter"] in limited_meters:
                    self.report(f"{path}.meter", "has a limit already")
                limited_meters.add(entitlement.value["meter"])
        return entitlements

    def entitlement(self, path: str, feature: str, item: Any, codes: Collection[str]) -> EntitlementContent:
        if feature == RATE_LIMIT_FEATURE:
            if item != {"setting": RATE_LIMIT_SETTING}:
                self.integer(path, item, 1, 10_000_000)
            return EntitlementContent(EntitlementKind.CONFIG, item)
        if isinstance(item, bool):
            return EntitlementContent(EntitlementKind.BOOLEAN, item)
        if isinstance(item, dict):
            values = self.object(path, item, ("meter", "limit"), ())
            meter = values.get("meter")
            if "meter" in values and (not isinstance(meter, str) or meter not in codes):
                self.report(f"{path}.meter", "there is no such meter")
            limit = self.quantity(f"{path}.limit", values.get("limit", "0"))
            return EntitlementContent(EntitlementKind.METERED, {"meter": str(meter), "limit": f"{limit.normalize():f}"})
        if isinstance(item, str | int):
            return EntitlementContent(EntitlementKind.CONFIG, item)
        self.report(path, "must be true or false, a whole number, a text, or a meter and its limit")
        return EntitlementContent(EntitlementKind.BOOLEAN, value=False)

    def amount(self, path: str, value: Any) -> int:
        if not isinstance(value, str):
            self.report(path, 'must be a string like "29.00", no JSON number')
            return 0
        try:
            return money.parse_minor(value, self.currency)
        except ValueError:
            decimals = CURRENCY_EXPONENTS[self.currency]
            self.report(path, f'must be an amount like "29.00" with at most {decimals} decimals of {self.currency}')
            return 0
