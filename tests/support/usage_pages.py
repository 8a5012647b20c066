"""The usage page as its tests read it: figures, cells of tables, downloads; and a company that used something."""

import csv
import io
import re
from datetime import UTC, datetime, timedelta

from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock
from tests.support.pages import Browser
from tests.support.usage import UsageOrganization, sign_up

USAGE = "/dashboard/usage"
TODAY = datetime(2026, 4, 15, 12, 30, 20, tzinfo=UTC)


def busy_company(client: FlaskClient) -> UsageOrganization:
    """Signed up on 1 March, with two keys that were used, once over the limit."""
    company = sign_up(client, at=datetime(2026, 3, 1, 9, tzinfo=UTC))
    for key in ("first", "second"):
        company.make_key(key)
    company.open_period(clock.now())
    company.open_period(TODAY)
    clock.freeze_time(TODAY)
    for day in (1, 2, 2, 9):
        company.use(300, at=datetime(2026, 4, day, 23, 59, tzinfo=UTC), key="first")
    company.use(7, at=datetime(2026, 2, 28, 12, tzinfo=UTC) + timedelta(days=2), key="first")
    company.roll_up()
    company.use(2, at=datetime(2026, 4, 10, tzinfo=UTC), key="second")
    company.use(1, at=datetime(2026, 4, 10, tzinfo=UTC), meter="email", key="second")
    company.use(5, key="second")
    company.refuse("failed", 2)
    company.refuse("rate_limited", 3, key="second")
    return company


def browser_of(app: Flask, company: UsageOrganization) -> Browser:
    browser = Browser(app)
    browser.client.set_cookie("at", company.owner["Authorization"].removeprefix("Bearer "))
    return browser


def shown(app: Flask, company: UsageOrganization, query: str = "", status: int = 200) -> str:
    answer = browser_of(app, company).open(f"{USAGE}?{query}")
    assert answer.status_code == status, answer.text
    return answer.text


def stats(page: str) -> dict[str, str]:
    """The figures on top, by label."""
    found = re.findall(r'class="stat-label">([^<]*)</p><p class="stat-value">([^<]*)<', page)
    return dict(found)


def table(page: str) -> list[list[str]]:
    """Cells of the table below the tabs, without marks."""
    body = re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL)[-1]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[re.sub(r"<[^>]+>", "", cell).strip() for cell in row] for row in cells]


def downloaded(app: Flask, company: UsageOrganization, query: str) -> list[dict[str, str]]:
    answer = browser_of(app, company).open(f"{USAGE}?{query}&format=csv")
    assert answer.mimetype == "text/csv"
    return list(csv.DictReader(io.StringIO(answer.data.decode("utf-8-sig"))))
