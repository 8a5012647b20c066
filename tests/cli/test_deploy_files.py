"""deploy/: manifests are valid, give a process no more than it needs, and start only with secrets of their own."""

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from flask import Flask

from config import ConfigurationError, Settings, load

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KUBERNETES_VERSION = "1.34"
MANIFESTS: list[dict[str, Any]] = [
    manifest
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def settings_of(kind: str) -> dict[str, str]:
    """Settings in all manifests of a kind."""
    found: dict[str, str] = {}
    for manifest in MANIFESTS:
        if manifest["kind"] == kind:
            found |= manifest.get("data", {}) | manifest.get("stringData", {})
    return found


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_manifest_fits_the_schema_of_kubernetes(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)


def test_schema_refuses_a_misspelt_field() -> None:
    wrong = {**MANIFESTS[0], "dada": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES_VERSION, strict=True)


@pytest.mark.parametrize("name", ["saas-migrate", "saas-web", "saas-worker", "saas-scheduler"])
def test_container_has_no_rights_and_only_the_migration_owns_the_tables(name: str, app: Flask) -> None:
    [manifest] = [m for m in MANIFESTS if m["metadata"]["name"] == name and m["kind"] in ("Job", "Deployment")]
    pod = manifest["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    secrets = [source["secretRef"]["name"] for source in container["envFrom"] if "secretRef" in source]
    assert secrets == ["saas-secrets", *(["saas-owner"] if name == "saas-migrate" else [])]
    if name in ("saas-worker", "saas-scheduler"):
        assert container["command"][1] in app.cli.commands


def test_manifests_name_settings_that_exist_and_no_usable_secret() -> None:
    settings = settings_of("ConfigMap") | settings_of("Secret")
    assert not set(settings) - set(Settings.model_fields)
    with pytest.raises(ConfigurationError) as refused:
        load(env_file=None, **settings)
    problems = {str(problem).partition(":")[0].partition("=")[0] for problem in refused.value.problems}
    assert {"SECRET_KEY", "JWT_SECRET", "API_KEY_PEPPER", "DATABASE_URL", "REDIS_URL"} <= problems


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_unit_starts_a_command_of_the_product(unit: Path, app: Flask) -> None:
    lines = dict(line.split("=", 1) for line in unit.read_text(encoding="utf-8").splitlines() if "=" in line)
    program, argument = shlex.split(lines["ExecStart"])
    assert program.startswith(f"{lines['WorkingDirectory']}/.venv/bin/")
    assert argument in app.cli.commands or (DEPLOY.parent / argument).is_file()
    if shutil.which("systemd-analyze"):
        checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
        assert not [line for line in checked.stderr.splitlines() if "is not executable" not in line]
