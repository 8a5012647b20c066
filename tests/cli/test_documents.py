"""`flask ... export`: writes generated documents, and reports stale ones."""

from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from flask import Flask
from pydantic import Field, SecretStr, create_model

from saas_api.cli.commands import documents

Sample = create_model(
    "Sample",
    RATE=(Decimal, Field(Decimal("0.0000001"), description="a price", json_schema_extra={"expected": "an amount"})),
    IS_ON=(bool, Field(False, description="a switch", json_schema_extra={"expected": "0 or 1"})),
    NAMES=(list[str], Field(["a", "b"], description="some names", json_schema_extra={"expected": "names"})),
    SECRET=(SecretStr | None, Field(None, description="a secret", json_schema_extra={"expected": "long"})),
)


def test_defaults_are_written_as_in_the_environment() -> None:
    defaults = {name: documents.format_default(field) for name, field in Sample.model_fields.items()}
    assert defaults == {"RATE": "0.0000001", "IS_ON": "0", "NAMES": "a,b", "SECRET": ""}


def test_settings_page_has_one_row_for_each_setting() -> None:
    page = documents.settings_page(Sample.model_fields)
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [
        "| `RATE` | `0.0000001` | an amount | a price |",
        "| `IS_ON` | `0` | 0 or 1 | a switch |",
        "| `NAMES` | `a,b` | names | some names |",
        "| `SECRET` | - | long | a secret |",
    ]


def test_vertical_bar_in_a_description_is_escaped() -> None:
    field = Field(None, description="lines", json_schema_extra={"expected": "lines separated by |"})
    fields = create_model("Lines", ADDRESS=(str | None, field)).model_fields
    assert "| `ADDRESS` | - | lines separated by \\| | lines |" in documents.settings_page(fields)


def test_example_environment_sets_nothing() -> None:
    lines = documents.env_example(Sample.model_fields).splitlines()
    assert "#IS_ON=0" in lines
    assert all(line.startswith("#") or not line for line in lines)


@pytest.mark.parametrize("noun", ["errors", "openapi"])
def test_document_is_exported_and_checked(app: Flask, tmp_path: Path, noun: str) -> None:
    runner, output = app.test_cli_runner(), str(tmp_path / "document")
    assert runner.invoke(args=[noun, "export", "--check", "--output", output]).exit_code == 3
    assert runner.invoke(args=[noun, "export", "--output", output]).exit_code == 0
    assert runner.invoke(args=[noun, "export", "--check", "--output", output]).exit_code == 0
    Path(output).write_text("stale", encoding="utf-8")
    stale = runner.invoke(args=[noun, "export", "--check", "--output", output])
    assert stale.exit_code == 3
    assert "is stale" in stale.output


def test_openapi_document_is_exported_as_yaml(app: Flask, tmp_path: Path) -> None:
    output = tmp_path / "openapi.yaml"
    arguments = ["openapi", "export", "--format", "yaml", "--output", str(output)]
    assert app.test_cli_runner().invoke(args=arguments).exit_code == 0
    written = yaml.load(output.read_bytes(), Loader=yaml.CSafeLoader)
    assert written == app.test_client().get("/api/v1/openapi.json").json
