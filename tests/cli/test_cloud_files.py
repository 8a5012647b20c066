"""deploy/ for clouds: files fit the interfaces of their providers, and start commands and settings that exist."""

import importlib.resources
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from flask import Flask

from config import REQUIRED_IN_PRODUCTION, Settings
from tests.architecture.source import ROOT

DEPLOY = ROOT / "deploy"
ECS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((DEPLOY / "ecs").glob("*.json"))
}
CLOUD_RUN: dict[str, dict[str, Any]] = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((DEPLOY / "cloud-run").glob("*.yaml"))
}
APP_PLATFORM: dict[str, Any] = yaml.safe_load((DEPLOY / "app-platform.yaml").read_text(encoding="utf-8"))


class Component(NamedTuple):
    """What a cloud starts.

    settings: names
    """

    cloud: str
    name: str
    command: list[str]
    settings: set[str]


def components() -> Iterator[Component]:
    for name, task in ECS.items():
        if not name.endswith("-service"):
            [container] = task["containerDefinitions"]
            names = {item["name"] for item in (*container["environment"], *container["secrets"])}
            yield Component("ecs", name, container["command"], names)
    for name, manifest in CLOUD_RUN.items():
        [container] = container_of(manifest)
        names = {item["name"] for item in container["env"]}
        yield Component("cloud-run", name, container.get("command", ["python", "serve.py"]), names)
    shared = {item["key"] for item in APP_PLATFORM["envs"]}
    for kind in ("jobs", "services", "workers"):
        for component in APP_PLATFORM[kind]:
            names = shared | {item["key"] for item in component.get("envs", [])}
            yield Component("app-platform", component["name"], shlex.split(component["run_command"]), names)


def container_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    spec = manifest["spec"]["template"]["spec"]
    containers: list[dict[str, Any]] = (spec["template"]["spec"] if manifest["kind"] == "Job" else spec)["containers"]
    return containers


COMPONENTS = list(components())


def discovery_problems(value: Any, schema: dict[str, Any], schemas: dict[str, Any], path: str = "") -> Iterator[str]:
    """What a value has that the schema of Google's discovery document does not."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    if not isinstance(value, types[schema["type"]]):
        yield f"{path} is no {schema['type']}"
    elif isinstance(value, list):
        for item in value:
            yield from discovery_problems(item, schema["items"], schemas, f"{path}[]")
    elif isinstance(value, dict):
        for name, inner in value.items():
            inner_schema = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if inner_schema is None:
                yield f"{path}.{name} is unknown"
            else:
                yield from discovery_problems(inner, inner_schema, schemas, f"{path}.{name}")


@pytest.mark.parametrize("name", CLOUD_RUN)
def test_file_for_cloud_run_fits_the_schema_of_its_interface(name: str) -> None:
    documents = importlib.resources.files("googleapiclient") / "discovery_cache" / "documents"
    schemas = json.loads((documents / "run.v1.json").read_text(encoding="utf-8"))["schemas"]
    manifest = CLOUD_RUN[name]
    assert list(discovery_problems(manifest, schemas[manifest["kind"]], schemas)) == []
    assert list(discovery_problems({**manifest, "sepc": {}}, schemas[manifest["kind"]], schemas)) == [
        ".sepc is unknown"
    ]


def test_each_cloud_runs_the_four_parts_of_the_product() -> None:
    for cloud in ("ecs", "cloud-run", "app-platform"):
        assert sorted(part.name for part in COMPONENTS if part.cloud == cloud) == [
            "migrate",
            "scheduler",
            "web",
            "worker",
        ]


@pytest.mark.parametrize("part", COMPONENTS, ids=lambda part: f"{part.cloud}-{part.name}")
def test_part_starts_a_command_of_the_product_with_the_settings_it_needs(part: Component, app: Flask) -> None:
    program, argument = part.command[:2]
    assert argument in app.cli.commands if program == "flask" else (ROOT / argument).exists()
    assert part.settings - set(Settings.model_fields) == set()
    assert {*REQUIRED_IN_PRODUCTION, "APP_URL", "SMTP_HOST"} - part.settings == set()
    assert ("DATABASE_OWNER_URL" in part.settings) == (part.name == "migrate")
    assert ("TRUSTED_PROXIES" in part.settings) == (part.name == "web")


def test_probes_and_load_balancers_ask_the_port_and_paths_of_the_web(app: Flask) -> None:
    port = Settings.model_fields["API_PORT"].default
    paths = {rule.rule for rule in app.url_map.iter_rules()}
    [task] = ECS["web"]["containerDefinitions"]
    assert [mapping["containerPort"] for mapping in task["portMappings"]] == [port]
    assert f":{port}/healthz" in task["healthCheck"]["command"][-1]
    [balancer] = ECS["web-service"]["loadBalancers"]
    assert (balancer["containerName"], balancer["containerPort"]) == (task["name"], port)
    [container] = container_of(CLOUD_RUN["web"])
    probes = [container[name]["httpGet"] for name in ("startupProbe", "livenessProbe")]
    [service] = APP_PLATFORM["services"]
    asked = {(probe["path"], probe["port"]) for probe in probes}
    asked |= {(service["health_check"]["http_path"], service["health_check"]["port"])}
    assert {at for _, at in asked} == {port, service["http_port"]}
    assert {path for path, _ in asked} <= paths


def test_services_of_ecs_run_tasks_that_have_a_file() -> None:
    for name, service in ECS.items():
        if name.endswith("-service"):
            assert service["taskDefinition"] == ECS[name.removesuffix("-service")]["family"]


def test_no_file_has_a_secret() -> None:
    """A secret is a reference to the provider's store, or a value that production refuses."""
    secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    secret |= {"DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL"}
    for task in (task for name, task in ECS.items() if not name.endswith("-service")):
        assert not secret & {item["name"] for item in task["containerDefinitions"][0]["environment"]}
    for manifest in CLOUD_RUN.values():
        assert not [item for item in container_of(manifest)[0]["env"] if item["name"] in secret and "value" in item]
    parts = [APP_PLATFORM, *(part for kind in ("jobs", "services", "workers") for part in APP_PLATFORM[kind])]
    values = [item for part in parts for item in part.get("envs", []) if item["key"] in secret]
    assert {(item["type"], item["value"]) for item in values} == {("SECRET", "CHANGE-ME")}


def test_containers_of_ecs_have_no_rights() -> None:
    for name, task in ECS.items():
        if not name.endswith("-service"):
            [container] = task["containerDefinitions"]
            assert container["readonlyRootFilesystem"] is True
            assert container["linuxParameters"]["capabilities"] == {"drop": ["ALL"]}
            assert [mount["containerPath"] for mount in container["mountPoints"]] == ["/tmp"]  # noqa: S108 - in a container


def test_files_of_clouds_are_named_in_the_deployment_page() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    paths = [*(DEPLOY / "ecs").iterdir(), *(DEPLOY / "cloud-run").iterdir(), DEPLOY / "app-platform.yaml"]
    names = [Path(path).relative_to(ROOT).as_posix() for path in paths]
    assert [name for name in names if name not in page] == []
