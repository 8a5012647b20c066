"""Every setting of the product: type, unit, default and use; all problems are reported at once, by name.

The environment wins over `.env`; a secret may also stand in the file that `<NAME>_FILE` names. Outside production what
is missing is made: the engines' addresses by computation, the secrets once, into `instance/secrets.json`.
"""

import ipaddress
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv.parser import parse_stream
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from saas_api.cli.dev.addresses import urls
from saas_api.cli.dev.own_secrets import SECRETS, own_secrets

ROOT = Path(__file__).resolve().parent
INSTANCE = ROOT / "instance"
REQUIRED_IN_PRODUCTION = ("DATABASE_URL", "REDIS_URL", *SECRETS)
MOUNTED = (*REQUIRED_IN_PRODUCTION, "SMTP_PASSWORD")


class ConfigurationError(Exception):
    """Settings that cannot be used; one problem a line, each beginning with the setting's name."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _setting(default: Any, expected: str, use: str, **bounds: Any) -> Any:
    return Field(default, description=use, json_schema_extra={"expected": expected}, **bounds)


Names = Annotated[list[str], NoDecode]


class Settings(BaseSettings):
    """The settings, in the order and groups of the README's table."""

    model_config = SettingsConfigDict(
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="forbid",
        case_sensitive=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    APP_ENV: Literal["development", "test", "production"] = _setting(
        "development",
        "development, test or production",
        "production refuses to start without its own secrets and engines",
    )
    API_PORT: int = _setting(8080, "a port from 1 to 65535", "the port the web listens on", ge=1, le=65535)
    APP_URL: str | None = _setting(
        None,
        "an address like https://api.example",
        "the public address; http://localhost:API_PORT if unset",
        pattern=r"^https?://[^/\s]+$",
    )
    DATABASE_URL: str | None = _setting(
        None, "a postgresql:// address", "PostgreSQL 14 to 18; embedded if unset, required in production"
    )
    REDIS_URL: str | None = _setting(
        None,
        "a redis://, rediss:// or unix:// address",
        "Redis 6.2 or later; embedded if unset, required in production",
        pattern=r"^(redis|rediss|unix)://",
    )

    SECRET_KEY: SecretStr | None = _setting(
        None,
        'at least 32 characters; several as "new,old"',
        "signs cursors, links and cookies; made if unset, required in production",
    )
    JWT_SECRET: SecretStr | None = _setting(
        None,
        'at least 32 characters; several as "new,old"',
        "signs access tokens; made if unset, required in production",
    )
    API_KEY_PEPPER: SecretStr | None = _setting(
        None,
        'version and secret of at least 32 characters, "1:..."; several as "2:...,1:..."',
        "keys the digests of API keys; made if unset, required in production",
    )

    API_KEY_PREFIX: str = _setting(
        "sk",
        "2 to 12 lower-case letters or digits, a letter first",
        "first part of every API key",
        pattern=r"^[a-z][a-z0-9]{1,11}$",
    )
    RATE_LIMIT_PER_MINUTE: int = _setting(
        60,
        "a whole number from 1 to 1000000",
        "requests per minute on plans that do not set their own limit",
        ge=1,
        le=1_000_000,
    )
    BILLING_RATE_PER_REQUEST: Decimal = _setting(
        Decimal("0.01"),
        "an amount from 0 with at most 10 decimals",
        "price of a message beyond what the small plans include",
        ge=0,
        le=1000,
        decimal_places=10,
    )
    BILLING_GRACE_MINUTES: int = _setting(
        60, "minutes from 0 to 1440", "time between the end of a period and its invoice", ge=0, le=1440
    )
    AUTH_ALLOWANCE_FACTOR: int | None = _setting(
        None, "1 to 1000", "widens what one address may try to sign in; 1 in production, else 100", ge=1, le=1000
    )
    REQUIRE_VERIFIED_EMAIL: bool = _setting(
        False, "0 or 1", "asks for a verified e-mail address before live keys and invitations"
    )

    CORS_ORIGINS: Names = _setting([], "origins separated by commas", "browsers' origins that may call the API")
    TRUSTED_PROXIES: int = _setting(0, "a whole number from 0 to 5", "hops of X-Forwarded-For to believe", ge=0, le=5)
    TRUSTED_PROXY_IPS: Names = _setting(
        ["127.0.0.1"], "addresses separated by commas", "proxies whose forwarding headers gunicorn believes"
    )

    SMTP_HOST: str | None = _setting(None, "a host name", "the server that takes mail; kept in instance/mail if unset")
    SMTP_PORT: int = _setting(587, "a port from 1 to 65535", "the port of that server", ge=1, le=65535)
    SMTP_USERNAME: str | None = _setting(None, "a name", "signs in there; nobody does if unset")
    SMTP_PASSWORD: SecretStr | None = _setting(None, "a password", "the password that goes with the name")
    SMTP_TLS: Literal["starttls", "tls", "none"] = _setting(
        "starttls", "starttls, tls or none", "how the way there is encrypted"
    )
    SMTP_FROM: str | None = _setting(None, "an address", "who mail comes from; no-reply@ the host of APP_URL if unset")

    MOCK_LATENCY_MS: int = _setting(0, "milliseconds from 0 to 10000", "time a mock provider takes", ge=0, le=10_000)
    MOCK_FAILURE_RATE: Decimal = _setting(
        Decimal(0), "a number from 0 to 1", "share of mock sends that are rejected", ge=0, le=1
    )

    WEB_CONCURRENCY: int | None = _setting(
        None, "1 to 64", "web processes; 2 if unset, in production twice the CPUs plus one up to 8", ge=1, le=64
    )
    LEASE_SECONDS: int = _setting(
        30, "seconds from 2 to 600, over twice MOCK_LATENCY_MS", "how long a worker holds what it took", ge=2, le=600
    )
    SWEEP_SECONDS: int = _setting(
        10, "seconds from 1 to 300", "how often is looked for what no wake-up announced", ge=1, le=300
    )
    DRAIN_SECONDS: int = _setting(20, "seconds from 1 to 300", "how long one job goes on taking messages", ge=1, le=300)

    LOG_LEVEL: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "debug, info, warning or error", "least weight of a log line that is written"
    )
    APP_FAULTS: bool = _setting(False, "0 or 1", "lets FAULT strike; refused in production")
    FAULT: str | None = _setting(None, "name:kill, name:raise or name:sleep=SECONDS", "the fault the tests ask for")

    @field_validator("CORS_ORIGINS", "TRUSTED_PROXY_IPS", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator(*REQUIRED_IN_PRODUCTION)
    @classmethod
    def _given_in_production(cls, value: Any, info: ValidationInfo) -> Any:
        return cls._unless(
            value is None and info.data.get("APP_ENV") == "production", value, "required in production; "
        )

    @field_validator("SECRET_KEY", "JWT_SECRET")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        parts = value.get_secret_value().split(",") if value else []
        return cls._unless(any(len(part) < 32 for part in parts), value)

    @field_validator("API_KEY_PEPPER")
    @classmethod
    def _versioned(cls, value: SecretStr | None) -> SecretStr | None:
        entries = value.get_secret_value().split(",") if value else []
        return cls._unless(not all(re.fullmatch(r"[0-9]{1,4}:[^:]{32,}", entry) for entry in entries), value)

    @field_validator("LEASE_SECONDS")
    @classmethod
    def _outlasts_a_call(cls, value: int, info: ValidationInfo) -> int:
        return cls._unless(2 * info.data.get("MOCK_LATENCY_MS", 0) > 1000 * value, value)

    @field_validator("CORS_ORIGINS")
    @classmethod
    def _origins(cls, value: list[str]) -> list[str]:
        return cls._unless(not all(re.fullmatch(r"https?://[^/\s*]+", origin) for origin in value), value)

    @field_validator("TRUSTED_PROXY_IPS")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        return [str(ipaddress.ip_network(address)).removesuffix("/32").removesuffix("/128") for address in value]

    @field_validator("DATABASE_URL")
    @classmethod
    def _postgresql(cls, value: str | None) -> str | None:
        if value is None:
            return None
        scheme, separator, rest = value.partition("://")
        if not separator or scheme not in ("postgres", "postgresql", "postgresql+psycopg2"):
            raise ValueError("form")
        return f"postgresql+psycopg2://{rest}"

    @field_validator("APP_FAULTS")
    @classmethod
    def _never_in_production(cls, value: bool, info: ValidationInfo) -> bool:
        return cls._unless(value and info.data.get("APP_ENV") == "production", value)

    @staticmethod
    def _unless(is_wrong: bool, value: Any, reason: str = "") -> Any:
        if is_wrong:
            raise PydanticCustomError("refused", "{reason}", {"reason": reason})
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Overrides, environment, mounted secrets, `.env`."""
        del file_secret_settings
        return init_settings, env_settings, MountedSecrets(settings_cls), dotenv_settings


class MountedSecrets(PydanticBaseSettingsSource):
    """Reads `<NAME>_FILE` of the environment for the settings that are secret."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Content of the named file, without surrounding space."""
        del field
        path = os.environ.get(f"{field_name}_FILE")
        return (Path(path).read_text(encoding="utf-8").strip() if path else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {name: self.get_field_value(Settings.model_fields[name], name)[0] for name in MOUNTED}
        return {name: value for name, value in values.items() if value}


def load(*, env_file: Path | None = ROOT / ".env", **overrides: Any) -> dict[str, Any]:
    """The settings as the application takes them: plain values by name, nothing missing that can be made.

    env_file: None reads the environment alone
    overrides: win over everything
    raises: ConfigurationError with every problem
    """
    problems = _unreadable_lines(env_file) if env_file and env_file.exists() else []
    if problems:
        raise ConfigurationError(problems)
    try:
        settings = Settings(_env_file=env_file, **overrides)  # type: ignore[call-arg] # BaseSettings takes it
    except ValidationError as error:
        raise ConfigurationError(_problems(error)) from None
    except OSError as error:
        raise ConfigurationError([f"a mounted secret cannot be read: {error}"]) from None
    values = {name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in settings}
    for name, secret in ({} if all(values[name] for name in SECRETS) else own_secrets(INSTANCE)).items():
        values[name] = values[name] or secret
    database_url, redis_url = urls(INSTANCE)
    app_url = settings.APP_URL or f"http://localhost:{settings.API_PORT}"
    made = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "APP_URL": app_url,
        "SMTP_FROM": f"saas-api <no-reply@{urlsplit(app_url).hostname}>",
        "WEB_CONCURRENCY": min(2 * (os.cpu_count() or 1) + 1, 8) if settings.APP_ENV == "production" else 2,
        "AUTH_ALLOWANCE_FACTOR": 1 if settings.APP_ENV == "production" else 100,
    }
    return {"INSTANCE": str(INSTANCE), **values, **{name: values[name] or value for name, value in made.items()}}


def _unreadable_lines(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as file:
        found = [binding for binding in parse_stream(file) if binding.error or (binding.key and binding.value is None)]
    return [f"{path.name} line {binding.original.line}: expected NAME=value" for binding in found]


def _problems(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        name = str(problem["loc"][0])
        field = Settings.model_fields.get(name)
        extra = field.json_schema_extra if field else None
        expected = extra["expected"] if isinstance(extra, dict) else None
        reason = problem["msg"] if problem["type"] == "refused" else ""
        lines.append(f"{name}: {reason}expected {expected}" if expected else f"{name}: there is no such setting")
    return lines
