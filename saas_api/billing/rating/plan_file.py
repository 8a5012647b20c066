"""Plan content as a document: read strictly, write, compare."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from saas_api.billing.rating.charges import MeterPrice, Tier
from saas_api.core import money
from saas_api.core.money import CURRENCY_EXPONENTS

RATE_LIMIT_FEATURE = "rate_limit_per_minute"
RATE_LIMIT_SETTING = "RATE_LIMIT_PER_MINUTE"


@dataclass(frozen=True)
class MeterContent:
    """A meter as all plans share it."""

    code: str
    name: str
    unit: str
    reverse_on_failure: bool = True


@dataclass(frozen=True)
class EntitlementContent:
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
    prices: Mapping[str, MeterPrice]
    rights: Mapping[str, EntitlementContent]
    position: int | None = None
    is_public: bool | None = None
    meters: Sequence[MeterContent] = field(default_factory=tuple)


@dataclass(frozen=True)
class PlanDifference:
    """One place in which two documents differ.

    before: None where there was nothing; after: None where nothing is left
    """

    path: str
    before: Any
    after: Any


def to_document(content: PlanContent) -> dict[str, Any]:
    """The plan as its file says it, every amount a string; reading it gives the same plan."""
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
        written["meters"] = [vars(meter).copy() for meter in content.meters]
    written["prices"] = {meter: _price(price, currency) for meter, price in sorted(content.prices.items())}
    written["entitlements"] = {feature: right.value for feature, right in sorted(content.rights.items())}
    return written


def _price(price: MeterPrice, currency: str) -> dict[str, Any]:
    written: dict[str, Any] = {"model": price.model}
    if price.included_quantity:
        written["included"] = money.format_unit_price(price.included_quantity)
    match price.model:
        case "per_unit":
            written["unit_price"] = money.format_unit_price(price.unit_price)
        case "package":
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
    """Every leaf in which two documents differ, in the order of the later one."""
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


REQUIRED_METERS = ("sms", "email")
PRICE_MODELS = {"per_unit": "unit_price", "graduated": "tiers", "volume": "tiers", "package": "package"}
MAX_FILE_BYTES = 1_000_000
_PLAN = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_METER = re.compile(r"[a-z][a-z0-9_.]{0,62}")
_FEATURE = re.compile(r"[a-z][a-z0-9_]{0,62}")
_DECIMAL = re.compile(r"([0-9]{1,14})(?:\.([0-9]{1,10}))?")
_MAX_TIERS = 50


class InvalidPlanFile(ValueError):
    """A file that is no plan.

    problems: path and reason of each
    """

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{path}: {reason}" for path, reason in problems))
        self.problems = problems


def parse_plan_json(text: str) -> Any:
    """Read JSON strictly: nothing twice, no NaN.

    raises: BadPlan
    """
    try:
        return json.loads(text, object_pairs_hook=_reject_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidPlanFile([("", f"not JSON: {error}")]) from error


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is given twice")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def load_plan(written: Any, known: Mapping[str, MeterContent]) -> PlanContent:
    """A plan from its document.

    known: the meters that exist, by code
    raises: BadPlan with every problem
    """
    reader = _PlanReader()
    content = reader.plan(written, known)
    if reader.problems:
        raise InvalidPlanFile(reader.problems)
    return content


class _PlanReader:
    """Reads part by part and notes what is wrong; what could not be read is replaced so that reading goes on."""

    def __init__(self) -> None:
        self.problems: list[tuple[str, str]] = []
        self.currency = "USD"

    def refuse(self, path: str, reason: str) -> None:
        self.problems.append((path, reason))

    def plan(self, written: Any, known: Mapping[str, MeterContent]) -> PlanContent:
        required = ("plan", "name", "currency", "base_amount", "prices", "entitlements")
        found = self.object("", written, required, ("min_spend", "meters", "position", "is_public"))
        currency = found.get("currency", "USD")
        if isinstance(currency, str) and currency in CURRENCY_EXPONENTS:
            self.currency = currency
        else:
            self.refuse("currency", f"must be one of {', '.join(CURRENCY_EXPONENTS)}")
        meters = self.meters(found.get("meters", []), known)
        codes = {*known, *(meter.code for meter in meters)}
        return PlanContent(
            self.word("plan", found, _PLAN, "lower-case letters, digits, - and _"),
            self.text("name", found.get("name", "?"), 80),
            self.currency,
            self.amount("base_amount", found.get("base_amount", "0")),
            self.amount("min_spend", found.get("min_spend", "0")),
            self.prices(found.get("prices"), codes),
            self.rights(found.get("entitlements"), codes),
            self.whole("position", found["position"], 1, 1000) if "position" in found else None,
            self.truth("is_public", found["is_public"]) if "is_public" in found else None,
            meters,
        )

    def meters(self, written: Any, known: Mapping[str, MeterContent]) -> list[MeterContent]:
        if not isinstance(written, list):
            self.refuse("meters", "must be a list")
            return []
        read: dict[str, MeterContent] = {}
        for index, one in enumerate(written):
            path = f"meters.{index}"
            found = self.object(path, one, ("code", "name", "unit"), ("reverse_on_failure",))
            if {"code", "name", "unit"} - set(found):
                continue
            meter = MeterContent(
                self.word(f"{path}.code", {f"{path}.code": found["code"]}, _METER, "like sms or api.calls"),
                self.text(f"{path}.name", found["name"], 80),
                self.text(f"{path}.unit", found["unit"], 40),
                self.truth(f"{path}.reverse_on_failure", found.get("reverse_on_failure", True)),
            )
            if meter.code in read:
                self.refuse(f"{path}.code", "is given twice")
            elif known.get(meter.code, meter) != meter:
                self.refuse(path, "this meter exists and is another; plans share their meters")
            read[meter.code] = meter
        return list(read.values())

    def prices(self, written: Any, codes: Collection[str]) -> dict[str, MeterPrice]:
        found = self.object("prices", {} if written is None else written, (), None)
        for meter in REQUIRED_METERS:
            if written is not None and meter not in found:
                self.refuse(f"prices.{meter}", "is missing; every plan prices what messages use")
        read = {}
        for meter, one in found.items():
            if meter not in codes:
                self.refuse(f"prices.{meter}", "there is no such meter; describe a new one under meters")
            read[meter] = self.price(f"prices.{meter}", one)
        return read

    def price(self, path: str, written: Any) -> MeterPrice:
        found = self.object(path, written, ("model",), ("included", "max_amount", *PRICE_MODELS.values()))
        model = found.get("model")
        if not isinstance(model, str) or model not in PRICE_MODELS:
            if "model" in found:
                self.refuse(f"{path}.model", f"must be one of {', '.join(PRICE_MODELS)}")
            return MeterPrice("per_unit")
        own = PRICE_MODELS[model]
        for name in sorted(set(PRICE_MODELS.values()) & set(found) - {own}):
            self.refuse(f"{path}.{name}", f"does not belong to a {model} price")
        if own not in found:
            self.refuse(f"{path}.{own}", "is missing")
        package = found.get("package", {"size": "1", "amount": "0"}) if own == "package" else {}
        sized = self.object(f"{path}.package", package, ("size", "amount") if own == "package" else (), ())
        most = found.get("max_amount")
        return MeterPrice(
            model,
            CURRENCY_EXPONENTS[self.currency],
            self.quantity(f"{path}.included", found.get("included", "0")),
            self.decimal(f"{path}.unit_price", found.get("unit_price", "0")),
            self.tiers(f"{path}.tiers", found["tiers"]) if own == "tiers" and own in found else (),
            self.quantity(f"{path}.package.size", sized.get("size", "1"), is_positive=True),
            self.amount(f"{path}.package.amount", sized.get("amount", "0")),
            None if most is None else self.amount(f"{path}.max_amount", most),
        )

    def tiers(self, path: str, written: Any) -> tuple[Tier, ...]:
        if not isinstance(written, list) or not 1 <= len(written) <= _MAX_TIERS:
            self.refuse(path, f"must be a list of 1 to {_MAX_TIERS} tiers")
            return ()
        read: list[Tier] = []
        for index, one in enumerate(written):
            here, is_last = f"{path}.{index}", index == len(written) - 1
            found = self.object(here, one, ("up_to", "unit_price"), ("flat_amount",))
            up_to = found.get("up_to")
            if "up_to" in found and (up_to is None) != is_last:
                self.refuse(f"{here}.up_to", "must be null on the last tier, and only there")
            bound = None if up_to is None else self.quantity(f"{here}.up_to", up_to, is_positive=True)
            floor = read[-1].up_to if read else None
            if bound is not None and floor is not None and bound <= floor:
                self.refuse(f"{here}.up_to", "must be above that of the tier before")
            unit_price = self.decimal(f"{here}.unit_price", found.get("unit_price", "0"))
            read.append(Tier(bound, unit_price, self.amount(f"{here}.flat_amount", found.get("flat_amount", "0"))))
        return tuple(read)

    def rights(self, written: Any, codes: Collection[str]) -> dict[str, EntitlementContent]:
        found = self.object("entitlements", {} if written is None else written, (), None)
        if written is not None and RATE_LIMIT_FEATURE not in found:
            self.refuse(f"entitlements.{RATE_LIMIT_FEATURE}", "is missing")
        limited: set[str] = set()
        read = {}
        for feature, value in found.items():
            path = f"entitlements.{feature}"
            if not _FEATURE.fullmatch(feature):
                self.refuse(path, "must be named in lower-case letters, digits and _")
            read[feature] = self.right(path, feature, value, codes)
            if read[feature].kind == "metered":
                if read[feature].value["meter"] in limited:
                    self.refuse(f"{path}.meter", "has a limit already")
                limited.add(read[feature].value["meter"])
        return read

    def right(self, path: str, feature: str, value: Any, codes: Collection[str]) -> EntitlementContent:
        if feature == RATE_LIMIT_FEATURE:
            if value != {"setting": RATE_LIMIT_SETTING}:
                self.whole(path, value, 1, 10_000_000)
            return EntitlementContent("config", value)
        if isinstance(value, bool):
            return EntitlementContent("boolean", value)
        if isinstance(value, dict):
            found = self.object(path, value, ("meter", "limit"), ())
            meter = found.get("meter")
            if "meter" in found and (not isinstance(meter, str) or meter not in codes):
                self.refuse(f"{path}.meter", "there is no such meter")
            limit = self.quantity(f"{path}.limit", found.get("limit", "0"))
            return EntitlementContent("metered", {"meter": str(meter), "limit": f"{limit.normalize():f}"})
        if isinstance(value, str | int):
            return EntitlementContent("config", value)
        self.refuse(path, "must be true or false, a whole number, a text, or a meter and its limit")
        return EntitlementContent("boolean", value=False)

    def object(
        self, path: str, value: Any, required: tuple[str, ...], optional: tuple[str, ...] | None
    ) -> dict[str, Any]:
        """The fields of an object; `optional` is None where any name will do."""
        if not isinstance(value, dict):
            self.refuse(path, "must be an object")
            return {}
        for name in required:
            if name not in value:
                self.refuse(f"{path}.{name}".lstrip("."), "is missing")
        if optional is None:
            return value
        for name in value:
            if name not in (*required, *optional):
                self.refuse(f"{path}.{name}".lstrip("."), "is not known")
        return value

    def word(self, path: str, found: Mapping[str, Any], pattern: re.Pattern[str], rule: str) -> str:
        value = found.get(path, "x")
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        self.refuse(path, f"must be a code: {rule}")
        return ""

    def text(self, path: str, value: Any, longest: int) -> str:
        if isinstance(value, str) and value.isprintable() and value.strip() == value and 1 <= len(value) <= longest:
            return value
        self.refuse(path, f"must be a text of 1 to {longest} characters on one line")
        return ""

    def truth(self, path: str, value: Any) -> bool:
        if not isinstance(value, bool):
            self.refuse(path, "must be true or false")
        return value is True

    def whole(self, path: str, value: Any, least: int, most: int) -> int:
        if type(value) is int and least <= value <= most:
            return value
        self.refuse(path, f"must be a whole number from {least} to {most}")
        return least

    def amount(self, path: str, value: Any) -> int:
        if not isinstance(value, str):
            self.refuse(path, 'must be a string like "29.00", no JSON number')
            return 0
        try:
            return money.parse_minor(value, self.currency)
        except ValueError:
            decimals = CURRENCY_EXPONENTS[self.currency]
            self.refuse(path, f'must be an amount like "29.00" with at most {decimals} decimals of {self.currency}')
            return 0

    def decimal(self, path: str, value: Any, places: int = 10) -> Decimal:
        if not isinstance(value, str):
            self.refuse(path, 'must be a string like "0.005", no JSON number')
            return Decimal(0)
        match = _DECIMAL.fullmatch(value)
        whole = 20 - places
        if match is None or not value.isascii() or len(match[1]) > whole or len(match[2] or "") > places:
            self.refuse(path, f"must have at most {whole} digits and {places} decimals, and no sign")
            return Decimal(0)
        return Decimal(value)

    def quantity(self, path: str, value: Any, *, is_positive: bool = False) -> Decimal:
        """A quantity in a meter's unit: a string, or a whole JSON number."""
        read = self.decimal(path, str(value) if type(value) is int else value, 6)
        if is_positive and not read and not [problem for problem in self.problems if problem[0] == path]:
            self.refuse(path, "must be above 0")
        return read
