"""The usage page: an organization with usage, and the figures, table and CSV download of the page."""

import csv
import io
import re
from datetime import UTC, datetime, timedelta

from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock
from tests.support.pages import Browser
from tests.support.usage import UsageOrganization, sign_up_organization

USAGE = "/dashboard/usage"
TODAY = datetime(2026, 4, 15, 12, 30, 20, tzinfo=UTC)


def create_used_organization(client: FlaskClient) -> UsageOrganization:
    """Sign up an organization on 1 March with usage of two keys and rejected requests."""
    organization = sign_up_organization(client, at=datetime(2026, 3, 1, 9, tzinfo=UTC))
    for key in ("first", "second"):
        organization.make_key(key)
    organization.open_period(clock.now())
    organization.open_period(TODAY)
    clock.freeze_time(TODAY)
    for day in (1, 2, 2, 9):
        organization.use(300, at=datetime(2026, 4, day, 23, 59, tzinfo=UTC), key="first")
    organization.use(7, at=datetime(2026, 2, 28, 12, tzinfo=UTC) + timedelta(days=2), key="first")
    organization.roll_up()
    organization.use(2, at=datetime(2026, 4, 10, tzinfo=UTC), key="second")
    organization.use(1, at=datetime(2026, 4, 10, tzinfo=UTC), meter="email", key="second")
    organization.use(5, key="second")
    organization.refuse("failed", 2)
    organization.refuse("rate_limited", 3, key="second")
    return organization


def browse(app: Flask, organization: UsageOrganization) -> Browser:
    return Browser(app, organization.owner)


def open_usage(app: Flask, organization: UsageOrganization, query: str = "", status: int = 200) -> str:
    response = browse(app, organization).open(f"{USAGE}?{query}")
    assert response.status_code == status, response.text
    return response.text


def read_stats(page: str) -> dict[str, str]:
    """Return the figures at the top of the page by label."""
    figures = re.findall(r'class="stat-label">(?:<a [^>]*>)?([^<]*)(?:</a>)?</p><p class="stat-value">([^<]*)<', page)
    return dict(figures)


def read_table(page: str) -> list[list[str]]:
    """Return the cells of the table below the tabs, without markup."""
    body = re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL)[-1]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[re.sub(r"<[^>]+>", "", cell).strip() for cell in row] for row in cells]


def download_csv(app: Flask, organization: UsageOrganization, query: str) -> list[dict[str, str]]:
    response = browse(app, organization).open(f"{USAGE}?{query}&format=csv")
    assert response.mimetype == "text/csv"
    return list(csv.DictReader(io.StringIO(response.data.decode("utf-8-sig"))))
