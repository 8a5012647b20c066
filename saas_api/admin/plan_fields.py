"""Form fields of a plan file: prices, tiers and entitlements as flat names and texts, and back to a document.

A draft may be incomplete or wrong, so every shape of document is accepted. What the fields cannot show is edited as
JSON.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saas_api.billing.rating.plan_file import RATE_LIMIT_FEATURE, RATE_LIMIT_SETTING

SPARE_TIERS = 2
Values = Mapping[str, Any]
_TEXTS = ("name", "base_amount", "min_spend")
_TIER_FIELDS = ("up_to", "unit_price", "flat_amount")


@dataclass(frozen=True)
class PriceFields:
    """The fields of one price.

    prefix: of their names
    path: of the price in the document
    dimension, value: of a price by dimension; the value is "" for all that have no price of their own
    tiers: number of rows, with spare ones
    """

    prefix: str
    path: str
    meter: str
    dimension: str
    value: str
    model: str
    tiers: int


@dataclass(frozen=True)
class EntitlementFields:
    """The fields of one entitlement.

    kind: "boolean", "metered" or "config"
    """

    prefix: str
    feature: str
    kind: str


def list_prices(document: Values) -> list[PriceFields]:
    """The prices of a document, each value of a dimension before the default of its meter."""
    found = enumerate(_prices(document))
    return [
        PriceFields(f"p{n}", path, meter, dimension, value, str(price.get("model", "")), _tier_count(price))
        for n, (path, meter, dimension, value, price) in found
    ]


def list_entitlements(document: Values) -> list[EntitlementFields]:
    """The entitlements of a document, the rate limit first."""
    items = sorted(_object(document.get("entitlements")).items(), key=lambda item: item[0] != RATE_LIMIT_FEATURE)
    return [EntitlementFields(f"e{n}", feature, _kind(value)) for n, (feature, value) in enumerate(items)]


def to_values(document: Values) -> dict[str, Any]:
    """Values of the fields that show a document."""
    values: dict[str, Any] = {name: document.get(name, "") for name in _TEXTS}
    values["is_public"] = document.get("is_public", True)
    for n, (_, meter, dimension, value, price) in enumerate(_prices(document)):
        prefix = f"p{n}"
        values |= {f"{prefix}-meter": meter, f"{prefix}-dimension": dimension, f"{prefix}-value": value}
        values |= {
            f"{prefix}-{name}": price.get(name, "") for name in ("model", "included", "unit_price", "max_amount")
        }
        values |= {f"{prefix}-package-{name}": text for name, text in _object(price.get("package")).items()}
        for k, tier in enumerate(_list(price.get("tiers"))):
            values |= {f"{prefix}-tiers-{k}-{name}": _object(tier).get(name) or "" for name in _TIER_FIELDS}
    entitlements = _object(document.get("entitlements"))
    for entitlement in list_entitlements(document):
        value = entitlements[entitlement.feature]
        values[f"{entitlement.prefix}-feature"] = entitlement.feature
        if entitlement.kind == "metered":
            values |= {f"{entitlement.prefix}-{name}": text for name, text in value.items()}
        elif isinstance(value, bool):
            values[f"{entitlement.prefix}-value"] = "yes" if value else "no"
        else:
            values[f"{entitlement.prefix}-value"] = "" if isinstance(value, dict) else value
    return values


def to_document(values: Values, base: Values) -> dict[str, Any]:
    """The document of submitted fields.

    base: the document that the form was made from, for what has no field
    """
    kept = {name: base[name] for name in ("position", "meters") if name in base}
    document: dict[str, Any] = {
        "plan": base.get("plan"),
        "name": values.get("name", ""),
        "is_public": bool(values.get("is_public")),
        "currency": base.get("currency"),
        "base_amount": values.get("base_amount") or "0",
        **kept,
    }
    if values.get("min_spend"):
        document["min_spend"] = values["min_spend"]
    document["prices"] = _submitted_prices(values)
    document["entitlements"] = _submitted_entitlements(values)
    return document


def field_errors(document: Values, problems: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Messages by the name of the field that each problem is about; problems without a field are left out.

    problems: (path in the document, reason)
    """
    prefixes = {fields.path: fields.prefix for fields in list_prices(document)}
    prefixes |= {f"entitlements.{fields.feature}": f"{fields.prefix}" for fields in list_entitlements(document)}
    errors: dict[str, str] = {}
    for path, reason in problems:
        owner = max((start for start in prefixes if f"{path}.".startswith(f"{start}.")), key=len, default=None)
        if owner is None:
            errors.setdefault(path, reason)
            continue
        rest = path.removeprefix(owner).strip(".").replace(".", "-")
        default = "value" if owner.startswith("entitlements.") else "model"
        errors.setdefault(f"{prefixes[owner]}-{rest or default}", reason)
    return errors


def _prices(document: Values) -> Iterator[tuple[str, str, str, str, dict[str, Any]]]:
    for meter, item in _object(document.get("prices")).items():
        path, by = f"prices.{meter}", _object(_object(item).get("by"))
        dimension = str(by.get("dimension", ""))
        for value, price in _object(by.get("values")).items():
            yield f"{path}.by.values.{value}", meter, dimension, value, _object(price)
        if by:
            yield f"{path}.by.default", meter, dimension, "", _object(by.get("default"))
        else:
            yield path, meter, "", "", _object(item)


def _submitted_prices(values: Values) -> dict[str, Any]:
    prices: dict[str, Any] = {}
    for prefix in _prefixes(values, "p", "meter"):
        meter, value, is_removed = (values.get(f"{prefix}-{name}") for name in ("meter", "value", "remove"))
        if not is_removed:
            _add_price(prices, str(meter), str(value or ""), prefix, values)
        elif not value:  # the default, and with it the meter
            prices.pop(str(meter), None)
    if values.get("add_meter"):
        prices.setdefault(str(values["add_meter"]), {"model": "per_unit"})
    return prices


def _add_price(prices: dict[str, Any], meter: str, value: str, prefix: str, values: Values) -> None:
    """Add one price; that of a meter without values of a dimension is a price of its own."""
    own, new_value = _submitted_price(values, prefix), str(values.get(f"{prefix}-new_value") or "").strip()
    dimension = values.get(f"{prefix}-dimension") or values.get(f"{prefix}-split")
    by = prices.get(meter, {}).get("by") or {"dimension": dimension, "values": {}}
    if value:
        by["values"][value] = own
    elif new_value:
        by["values"].setdefault(new_value, own)
    if value or by["values"]:
        prices[meter] = {"by": by if value else {**by, "default": own}}
    else:
        prices[meter] = own


def _submitted_price(values: Values, prefix: str) -> dict[str, Any]:
    model = values.get(f"{prefix}-model", "")
    price: dict[str, Any] = {"model": model, **_given(values, prefix, "included")}
    if model == "per_unit":
        price |= _given(values, prefix, "unit_price")
    elif model == "package":
        price["package"] = _given(values, f"{prefix}-package", "size", "amount")
    else:
        price["tiers"] = _submitted_tiers(values, prefix)
    return price | _given(values, prefix, "max_amount")


def _submitted_tiers(values: Values, prefix: str) -> list[dict[str, Any]]:
    rows = [
        _given(values, f"{prefix}-tiers-{k}", *_TIER_FIELDS)
        for k in range(_count(values, f"{prefix}-tiers-{{}}-unit_price"))
    ]
    return [{"up_to": None, **row} for row in rows if row]


def _submitted_entitlements(values: Values) -> dict[str, Any]:
    entitlements: dict[str, Any] = {}
    for prefix in _prefixes(values, "e", "feature"):
        feature, text = str(values[f"{prefix}-feature"]), str(values.get(f"{prefix}-value", "")).strip()
        if values.get(f"{prefix}-remove"):
            continue
        if f"{prefix}-meter" in values:
            entitlements[feature] = _given(values, prefix, "meter", "limit")
        elif text in ("yes", "no") and values.get(f"{prefix}-kind") == "boolean":
            entitlements[feature] = text == "yes"
        elif feature == RATE_LIMIT_FEATURE and not text:
            entitlements[feature] = {"setting": RATE_LIMIT_SETTING}
        else:
            entitlements[feature] = int(text) if text.isdecimal() else text
    return entitlements


def _given(values: Values, prefix: str, *names: str) -> dict[str, Any]:
    given = {name: str(values.get(f"{prefix}-{name}") or "").strip() for name in names}
    return {name: text for name, text in given.items() if text}


def _prefixes(values: Values, letter: str, name: str) -> list[str]:
    return [f"{letter}{n}" for n in range(_count(values, f"{letter}{{}}-{name}"))]


def _count(values: Values, pattern: str) -> int:
    """How many fields of a pattern there are, numbered from 0 without gaps."""
    count = 0
    while pattern.format(count) in values:
        count += 1
    return count


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "metered" if isinstance(value, dict) and "meter" in value else "config"


def _tier_count(price: Values) -> int:
    return len(_list(price.get("tiers"))) + SPARE_TIERS


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
