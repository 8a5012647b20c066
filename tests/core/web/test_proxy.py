"""The proxy of compose.yaml: the only published service before the web, and in agreement with its settings."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import Settings
from saas_api.core.settings import ROOT
from tests.support.ports import free_port

CONFIGURATION = (ROOT / "nginx.conf").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"])


def test_the_proxy_is_the_only_published_service(services: dict[str, Any]) -> None:
    """G2: compose published gunicorn itself."""
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    assert services["web"]["environment"]["TRUSTED_PROXIES"] == 1
    assert "TRUSTED_PROXY_IPS" in services["web"]["environment"]


def test_proxy_closes_idle_connections_before_the_web_does() -> None:
    """A9: otherwise a request meets a connection that the web is closing."""
    upstream = re.search(r"upstream web \{.*?keepalive_timeout (\d+)s", CONFIGURATION, re.DOTALL)
    assert upstream
    assert int(upstream[1]) < Settings.model_fields["KEEPALIVE_SECONDS"].default


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is optional, and its package would start a service")
def test_nginx_accepts_the_configuration(tmp_path: Path) -> None:
    """G2: with the web at an address, because `resolve` needs nginx 1.27 and the names of compose."""
    text = CONFIGURATION.replace("web:8080 resolve", f"127.0.0.1:{free_port()}").replace("/tmp/", f"{tmp_path}/")  # noqa: S108 - of the container
    (tmp_path / "nginx.conf").write_text(text)
    result = subprocess.run(["nginx", "-t", "-c", tmp_path / "nginx.conf"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
