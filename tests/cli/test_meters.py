"""`flask meters`: a file is published once, shown as it was written, archived, and refused with every problem."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from tests.support.billing import create_organization

LOOKUPS = {"code": "lookups", "name": "Lookups", "unit": "lookup", "aggregation": "sum", "dimensions": ["region"]}


@pytest.fixture
def publish(app: Flask, tmp_path: Path) -> Any:
    """Run `flask meters publish` on a document."""

    def run(document: Any, *options: str) -> Result:
        file = tmp_path / "meter.json"
        file.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
        return app.test_cli_runner().invoke(args=["meters", "publish", str(file), *options])

    return run


def meters(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["meters", *arguments])


def test_meter_is_published_shown_listed_and_archived(app: Flask, publish: Any) -> None:
    assert publish(LOOKUPS).stdout.startswith("lookups published.")
    assert publish(LOOKUPS).stdout == "lookups says the same; nothing to publish.\n"
    assert json.loads(meters(app, "show", "lookups", "--json").stdout) == LOOKUPS
    listed = json.loads(meters(app, "list", "--json").stdout)["meters"]
    assert [meter["code"] for meter in listed] == ["email", "lookups", "sms"]
    changed = json.loads(publish({**LOOKUPS, "dimensions": ["region", "plan"]}, "--json").stdout)
    assert changed == {"meter": "lookups", "is_new": False, "changes": ["dimensions"], "problems": []}
    assert "flask usage rebuild" in publish(LOOKUPS).stdout
    assert meters(app, "archive", "lookups").stdout == "lookups is archived.\n"
    assert meters(app, "archive", "lookups").stdout == "lookups is archived; it was so before.\n"
    assert "takes no new usage" in meters(app, "show", "lookups").stdout
    assert "lookups" in meters(app, "list").stdout.partition(", archived")[0]
    assert meters(app, "archive", "lookups", "--undo").stdout == "lookups takes usage.\n"


def test_meter_with_usage_keeps_its_unit(app: Flask, publish: Any) -> None:
    publish(LOOKUPS)
    with app.app_context():
        create_organization().use(2, "lookups")
    refused = publish({**LOOKUPS, "unit": "search"})
    assert (refused.exit_code, refused.stderr.partition(":")[0]) == (1, "METER_HAS_USAGE")
    assert json.loads(meters(app, "show", "lookups", "--json").stdout) == LOOKUPS


def test_file_with_problems_publishes_nothing(app: Flask, publish: Any) -> None:
    refused = publish({"code": "lookups", "aggregation": "average"}, "--json")
    assert refused.exit_code == 3
    assert {problem["path"] for problem in json.loads(refused.stdout)["problems"]} == {"name", "unit", "aggregation"}
    assert "aggregation must be one of" in refused.stderr
    assert publish("{").exit_code == 3
    unknown = meters(app, "show", "lookups")
    assert (unknown.exit_code, "There is no such meter." in unknown.stderr) == (1, True)
