"""Generates `models.py` from the platform's OpenAPI document: the answers of the operations that the client calls.

`make clients` runs it.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "saas_api_client"
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "openapi.json"
MODELS = PACKAGE / "models.py"
REFERENCE = "#/components/schemas/"
HEADER = '''"""The platform's answers, generated from its OpenAPI document by `make clients`; do not edit.

Amounts and quantities are decimal strings, times are aware.
"""'''
NAMES = {  # where the name of a schema without `Out` says too little
    "KeyOut": "ApiKey",
    "CreatedKeyOut": "CreatedApiKey",
    "RotatedKeyOut": "RotatedApiKey",
    "IngestionOut": "RecordedEvents",
    "PageOfKeys": "ApiKeyPage",
    "PageOfMessages": "MessagePage",
    "TimeseriesOut": "UsageTimeseries",
    "DateRangeOut": "UsagePeriod",
}
QUANTITY = [{"type": "integer"}, {"type": "string", "format": "decimal"}]


def called_operations() -> set[str]:
    """Return the ids of the operations that the client calls."""
    source = (PACKAGE / "_operations.py").read_text(encoding="utf-8")
    return set(re.findall(r'operation_id="([a-z_]+)"', source))


def answers(document: dict[str, Any], operations: set[str]) -> Iterator[dict[str, Any]]:
    """Yield the schema of `data` in the answer of each operation.

    raises: LookupError for an operation that the document does not have
    """
    found = set()
    for methods in document["paths"].values():
        for operation in methods.values():
            if not isinstance(operation, dict) or operation.get("operationId") not in operations:
                continue
            found.add(operation["operationId"])
            for status, response in operation["responses"].items():
                if status.startswith("2") and "application/json" in response.get("content", {}):
                    [name] = references(response["content"]["application/json"]["schema"])
                    yield document["components"]["schemas"][name]["properties"]["data"]
    if missing := operations - found:
        raise LookupError(f"the OpenAPI document has no {', '.join(sorted(missing))}")


def references(schema: Any) -> Iterator[str]:
    """Yield the names of the schemas that a schema refers to."""
    if isinstance(schema, dict):
        if isinstance(name := schema.get("$ref"), str):
            yield name.removeprefix(REFERENCE)
        schema = list(schema.values())
    if isinstance(schema, list):
        for item in schema:
            yield from references(item)


def reachable(schemas: dict[str, Any], roots: Iterator[dict[str, Any]]) -> list[str]:
    """Return the names of the schemas that the roots refer to, directly or not."""
    found: set[str] = set()
    waiting = [name for root in roots for name in references(root)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += references(schemas[name])
    return sorted(found)


def model_name(schema: str) -> str:
    """Return the name of a schema's model."""
    return NAMES.get(schema, schema.removesuffix("Out"))


def simplified(schema: Any) -> Any:
    """Return a schema whose quantities are decimals."""
    if isinstance(schema, list):
        return [simplified(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("oneOf") == QUANTITY:
        return {"type": "string", "format": "decimal", "nullable": schema.get("nullable", False)}
    return {key: simplified(value) for key, value in schema.items()}


def model_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema as the generator needs it: what may be null has a default."""
    pattern = re.compile(f'"{REFERENCE}([A-Za-z]+)"')
    text = pattern.sub(lambda match: f'"{REFERENCE}{model_name(match[1])}"', json.dumps(simplified(schema)))
    renamed: dict[str, Any] = json.loads(text)
    if "required" in renamed:
        renamed["required"] = [name for name in renamed["required"] if not renamed["properties"][name].get("nullable")]
    return renamed


def pruned_document() -> dict[str, Any]:
    """Return the OpenAPI document with nothing but the schemas that the client reads."""
    document = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    schemas = document["components"]["schemas"]
    names = reachable(schemas, answers(document, called_operations()))
    models = {model_name(name): model_schema(schemas[name]) for name in names}
    return {
        "openapi": document["openapi"],
        "info": document["info"],
        "paths": {},
        "components": {"schemas": models},
    }


def generate(output: Path) -> None:
    """Write the models to a file."""
    with tempfile.TemporaryDirectory() as directory:
        pruned = Path(directory) / "openapi.json"
        pruned.write_text(json.dumps(pruned_document()), encoding="utf-8")
        command = ["-m", "datamodel_code_generator", "--input", str(pruned), "--input-file-type", "openapi"]
        command += ["--output", str(output), "--output-model-type", "dataclasses.dataclass", "--frozen-dataclasses"]
        command += ["--target-python-version", "3.10", "--no-use-union-operator", "--use-standard-collections"]
        command += ["--enum-field-as-literal", "all", "--formatters", "builtin", "--disable-timestamp"]
        command += ["--use-field-description", "--output-datetime-class", "datetime", "--custom-file-header", HEADER]
        subprocess.run([sys.executable, *command], check=True)  # noqa: S603 - constants
    settings = str(PACKAGE.parents[1] / "pyproject.toml")
    command = ["-m", "ruff", "format", "--quiet", "--config", settings, str(output)]
    subprocess.run([sys.executable, *command], check=True)  # noqa: S603 - constants


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if sys.argv[1:] else MODELS)
