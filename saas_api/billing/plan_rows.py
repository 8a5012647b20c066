"""Writes the rows of plans and of their published versions."""

from dataclasses import asdict
from decimal import Decimal

from saas_api.billing.models import Entitlement, Plan, PlanVersion, PlanVersionStatus, Price, PriceTier
from saas_api.billing.rating.charges import PriceModel
from saas_api.billing.rating.plan_file import EntitlementKind, PlanContent
from saas_api.core import clock
from saas_api.core.db.tenancy import SystemSession
from saas_api.usage import meters


def write_plan(session: SystemSession, content: PlanContent, version_id: str | None) -> None:
    """Write a plan, its new meters and a published version of it.

    version_id: None writes no version
    """
    for meter in content.meters:
        meters.add_meter(session, meter)
    plan = session.merge(Plan(code=content.code, name=content.name, position=content.position))
    plan.is_public = bool(content.is_public)
    session.flush()  # the version refers to the plan, its prices to the meters
    if version_id is None:
        return
    version = PlanVersion(
        id=version_id,
        plan_code=content.code,
        version=int(version_id.rpartition("@")[2]),
        status=PlanVersionStatus.DRAFT,
        currency=content.currency,
        base_amount_minor=content.base_amount_minor,
        min_spend_minor=content.min_spend_minor,
    )
    session.add(version)
    session.flush()  # prices and entitlements refer to it
    _add_prices(session, content, version_id)
    for feature, right in content.entitlements.items():
        entitlement = Entitlement(plan_version_id=version_id, feature=feature, kind=right.kind, value=right.value)
        if right.kind == EntitlementKind.METERED:
            entitlement.meter_code = right.value["meter"]
            entitlement.limit_quantity = Decimal(right.value["limit"])
        session.add(entitlement)
    session.flush()  # a published version takes no more rows
    version.status, version.published_at = PlanVersionStatus.PUBLISHED, clock.now()


def _add_prices(session: SystemSession, content: PlanContent, version_id: str) -> None:
    prices = [
        (meter, value, own, price.dimension)
        for meter, price in content.prices.items()
        for value, own in price.by_value.items()
    ]
    for meter, value, price, dimension in prices:
        is_package = price.model == PriceModel.PACKAGE
        session.add(
            Price(
                plan_version_id=version_id,
                meter_code=meter,
                dimension=dimension,
                dimension_value=value,
                model=price.model,
                included_quantity=price.included_quantity,
                unit_price=price.unit_price if price.model == PriceModel.PER_UNIT else None,
                package_size=price.package_size if is_package else None,
                package_amount_minor=price.package_amount_minor if is_package else None,
                max_amount_minor=price.max_amount_minor,
            )
        )
    session.flush()  # the tiers refer to them
    session.add_all(
        PriceTier(plan_version_id=version_id, meter_code=meter, dimension_value=value, ordinal=ordinal, **asdict(tier))
        for meter, value, price, _ in prices
        for ordinal, tier in enumerate(price.tiers, start=1)
    )
