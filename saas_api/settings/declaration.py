"""How `config.py` declares settings: fields with their description, their sources, and problems as one line each."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

ENGINE_SETTINGS = ("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL", "LIMITS_REDIS_URL")
"""Addresses whose passwords differ in production."""
REPLICA_SETTING = "DATABASE_REPLICA_URL"
"""Its login and password are those of DATABASE_URL: a replica has the same."""
VALUE_OF_EMPTY = {"DEFAULT_SPEND_CAP": "none"}


class ConfigurationError(Exception):
    """The settings are not valid; one problem on each line, which begins with the setting's name."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def setting_field(default: Any, expected: str, use: str, **bounds: Any) -> Any:
    """A setting.

    default: None when the value is computed, generated or optional
    expected: description of valid values
    use: description of the setting
    """
    return Field(default, description=use, json_schema_extra={"expected": expected}, **bounds)


class SecretFileSource(PydanticBaseSettingsSource):
    """Reads secrets from the files that `<NAME>_FILE` name, and settings for which an empty variable has a meaning."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Content of the file, without surrounding whitespace."""
        del field
        path = os.environ.get(f"{field_name}_FILE")
        return (Path(path).read_text(encoding="utf-8").strip() if path else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        secret = [name for name, field in fields.items() if "SecretStr" in str(field.annotation)]
        names = (*secret, *ENGINE_SETTINGS, REPLICA_SETTING)
        values = {name: self.get_field_value(fields[name], name)[0] for name in names}
        empty = {name: value for name, value in VALUE_OF_EMPTY.items() if os.environ.get(name) == ""}
        return {name: value for name, value in values.items() if value} | empty


def invalid_env_lines(path: Path) -> list[str]:
    """Problems of a `.env`: one text for each line that is not NAME=value."""
    with path.open(encoding="utf-8") as file:
        invalid = [
            binding for binding in parse_stream(file) if binding.error or (binding.key and binding.value is None)
        ]
    return [f"{path.name} line {binding.original.line}: expected NAME=value" for binding in invalid]


def format_problems(error: ValidationError, fields: Mapping[str, FieldInfo]) -> list[str]:
    """One text for each invalid setting; it begins with the name and never contains the value."""
    lines = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        name = str(problem["loc"][0])
        field = fields.get(name)
        extra = field.json_schema_extra if field else None
        expected = extra["expected"] if isinstance(extra, dict) else None
        reason = problem["msg"] if problem["type"] == "refused" else ""
        lines.append(f"{name}: {reason}expected {expected}" if expected else f"{name}: there is no such setting")
    return lines


def reject_if(is_wrong: bool, value: Any, reason: str = "") -> Any:
    """The value, or an error when it is wrong.

    reason: text before the description of valid values
    """
    if is_wrong:
        raise PydanticCustomError("refused", "{reason}", {"reason": reason})
    return value


class BaseProductSettings(BaseSettings):
    """Sources and strictness of a class of settings."""

    model_config = SettingsConfigDict(
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="forbid",
        case_sensitive=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, mounted secrets and `.env`, in this order."""
        del file_secret_settings
        return init_settings, env_settings, SecretFileSource(settings_cls), dotenv_settings
