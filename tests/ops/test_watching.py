"""deploy/prometheus and deploy/grafana: rules and panels read metrics that exist, and each alert is explained."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from flask.testing import FlaskClient

from tests.support.accounts import User, make_key
from tests.support.messages import send_message

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"
CASES = Path(__file__).with_name("alerts.yaml")
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
METRIC = re.compile(r"\bsaas_[a-z_]+")
# written by a worker when something goes wrong, by the nightly checks, or where there is a replica
WITHOUT_VALUE = {
    "saas_database_failures_total",
    "saas_interruptions_total",
    "saas_lease_lost_total",
    "saas_redis_failures_total",
    "saas_replica_failures_total",
    "saas_replica_lag_seconds",
    "saas_replica_reads_total",
    "saas_replica_up",
    "saas_webhook_attempts_total",
}


def list_alerts() -> list[str]:
    """Names of the alerts, in their order."""
    return [rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_rules_and_panels_read_metrics_that_exist(client: FlaskClient, alice: User, work: Callable[[], None]) -> None:
    send_message(client, make_key(client, alice))
    work()
    client.get("/api/v1/messages")
    exposed = set(METRIC.findall(client.get("/metrics").text)) | WITHOUT_VALUE
    for path in (RULES, DASHBOARD):
        read = set(METRIC.findall(path.read_text(encoding="utf-8")))
        assert read
        assert not read - exposed


def test_each_alert_has_its_paragraph() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (Saas\w+)$", page, re.MULTILINE) == list_alerts()


def test_dashboard_has_panels_side_by_side() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels) == 19


@pytest.mark.skipif(
    not shutil.which("promtool"), reason="needs promtool, which .ci/run installs with the package prometheus"
)
@pytest.mark.parametrize("check", [("check", RULES), ("test", CASES)], ids=["valid", "raised when they should be"])
def test_rules_are_evaluated_by_prometheus(check: tuple[str, Path]) -> None:
    command, file = check
    checked = subprocess.run(["promtool", command, "rules", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_each_alert_is_raised_by_a_case() -> None:
    raised = set(re.findall(r'alertname="(\w+)"', CASES.read_text(encoding="utf-8")))
    assert raised == set(list_alerts())
