"""Every setting of the product: type, unit, default and use; all problems are reported at once, by name.

The environment wins over `.env`; a secret may also be in the file that `<NAME>_FILE` names. Outside production, missing
addresses of engines are computed, and missing secrets are generated once into `instance/secrets.json`.
"""

import ipaddress
import os
import re
from decimal import Decimal
from email.headerregistry import Address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from saas_api.core import brand, colors, money, redis_url
from saas_api.settings import declaration, instance, logo, production
from saas_api.settings.declaration import BaseProductSettings, ConfigurationError, setting_field
from saas_api.settings.instance import GENERATED_SECRETS

VERSION = "0.1.0"
ROOT = Path(__file__).resolve().parent
INSTANCE = ROOT / "instance"
_ADDRESS = r"^https?://[^/\s]+$"
_PAGE = r"^https?://[^/\s\"<>]+(/[^\s\"<>]*)?$"
_NETWORKS = ("TRUSTED_PROXY_IPS", "ADMIN_ALLOWED_IPS", "WEBHOOK_ALLOWED_NETWORKS")
REQUIRED_IN_PRODUCTION = ("DATABASE_URL", "REDIS_URL", *GENERATED_SECRETS)


_LEVEL = "(debug|info|warning|error)"
Names = Annotated[list[str], NoDecode]


def _parse_amounts(value: str) -> dict[str, int]:
    """Minor units by currency of "100.00 USD, 150000 NGN"; an amount alone is in USD, and "none" is empty."""
    minors: dict[str, int] = {}
    for part in () if value == "none" else value.split(","):
        amount, _, currency = part.strip().partition(" ")
        currency = currency or money.DEFAULT_CURRENCY
        declaration.reject_if(currency in minors, value, f"{currency} stands there twice; ")
        minors[currency] = money.parse_minor(amount, currency)
    return minors


def _parse_cells(value: Any) -> Any:
    """Addresses by name of "eu=postgresql://... us=postgresql://..."."""
    if not isinstance(value, str):
        return value
    urls: dict[str, str] = {}
    for part in value.split():
        name, separator, url = part.partition("=")
        is_address = separator and url.partition("://")[0] in ("postgres", "postgresql", "postgresql+psycopg2")
        declaration.reject_if(not is_address or not re.fullmatch(r"[a-z][a-z0-9]{0,11}", name), value)
        declaration.reject_if(name == "home", value, "home is the cell of DATABASE_URL; ")
        declaration.reject_if(name in urls, value, f"{name} stands there twice; ")
        urls[name] = f"postgresql+psycopg2://{url.partition('://')[2]}"
    return urls


UrlByCell = Annotated[dict[str, str], NoDecode, BeforeValidator(_parse_cells)]
AmountByCurrency = Annotated[dict[str, int], NoDecode, BeforeValidator(_parse_amounts)]


class Settings(BaseProductSettings):
    """The settings, in the order of docs/settings.md."""

    APP_ENV: Literal["development", "test", "production"] = setting_field(
        "development",
        "development, test or production",
        "production refuses to start without its own secrets and engines",
    )
    API_PORT: int = setting_field(8080, "a port from 1 to 65535", "the port the web listens on", ge=1, le=65535)
    LISTEN_ON: Literal["loopback", "all"] | None = setting_field(
        None, "loopback or all", "the addresses the web listens on, IPv4 and IPv6; all in production, else loopback"
    )
    SERVER: Literal["gunicorn", "granian"] = setting_field(
        "gunicorn",
        "gunicorn or granian",
        "the web server; granian is faster and needs a proxy, see deployment.md",
    )
    APP_URL: str | None = setting_field(
        None,
        "an address like https://api.example",
        "the public address; http://localhost:API_PORT if unset",
        pattern=_ADDRESS,
    )
    APP_HOSTS: Names = setting_field(
        [], "host names separated by commas", "further public names; requests for other hosts get 400"
    )
    DATABASE_URL: str | None = setting_field(
        None, "a postgresql:// address", "PostgreSQL 14 to 18; embedded if unset, required in production"
    )
    DATABASE_POOLER: Literal["none", "pgbouncer"] = setting_field(
        "none", "none or pgbouncer", "what DATABASE_URL leads to; pgbouncer in transaction mode (docs/deployment.md)"
    )
    DATABASE_OWNER_URL: str | None = setting_field(
        None,
        "a postgresql:// address",
        "login that owns the tables, used by flask db alone; DATABASE_URL if unset",
    )
    DATABASE_REPLICA_URL: str | None = setting_field(
        None,
        "a postgresql:// address of another server than DATABASE_URL's",
        "streaming replica that dashboards, reports and exports read; the primary if unset (docs/deployment.md)",
    )
    CELLS: UrlByCell = setting_field(
        {},
        "name=postgresql://... for each further cluster, separated by blanks",
        "further PostgreSQL clusters that organizations can be moved to (docs/deployment.md)",
    )
    CELLS_OWNER: UrlByCell = setting_field(
        {},
        "name=postgresql://... for each name in CELLS, separated by blanks",
        "logins that own the tables there, used by flask db and flask cells move alone; CELLS if unset",
    )
    REDIS_URL: str | None = setting_field(
        None,
        "a redis://, rediss:// or unix:// address",
        "Redis 6.2 or later; embedded if unset, required in production",
        pattern=r"^(redis|rediss|unix)://",
    )
    LIMITS_REDIS_URL: str | None = setting_field(
        None,
        "an address as for REDIS_URL, redis+cluster://host:port,host:port or redis+sentinel://host:port,host:port/service",
        "where limits are counted; REDIS_URL if unset, and docs/deployment.md for clusters and Sentinel",
    )

    SECRET_KEY: SecretStr | None = setting_field(
        None,
        'at least 32 characters; several as "new,old"',
        "signs cursors, links and cookies; generated if unset, required in production",
    )
    JWT_SECRET: SecretStr | None = setting_field(
        None,
        'at least 32 characters; several as "new,old"',
        "signs access tokens; generated if unset, required in production",
    )
    API_KEY_PEPPER: SecretStr | None = setting_field(
        None,
        'version and secret of at least 32 characters, "1:..."; several as "2:...,1:..."',
        "keys the digests of API keys; generated if unset, required in production",
    )

    API_KEY_PREFIX: str = setting_field(
        "sk",
        "2 to 12 lower-case letters or digits, a letter first",
        "first part of every API key",
        pattern=r"^[a-z][a-z0-9]{1,11}$",
    )
    RATE_LIMIT_PER_MINUTE: int = setting_field(
        60,
        "a whole number from 1 to 1000000",
        "requests per minute on plans that do not set their own limit",
        ge=1,
        le=1_000_000,
    )
    BILLING_RATE_PER_REQUEST: Decimal = setting_field(
        Decimal("0.01"),
        "an amount from 0 with at most 10 decimals",
        "price of an SMS segment beyond what the plans free and starter include, in USD",
        ge=0,
        le=1000,
        decimal_places=10,
    )
    BILLING_GRACE_MINUTES: int = setting_field(
        60, "minutes from 0 to 1440", "time between the end of a period and its invoice", ge=0, le=1440
    )
    LATE_USAGE_DAYS: int = setting_field(
        35, "days from 0 to 365", "how old usage of a closed billing period may be when it is reported", ge=0, le=365
    )
    AUTH_ALLOWANCE_FACTOR: int | None = setting_field(
        None,
        "1 to 1000",
        "multiplies sign-in limits of an address; 1 in production, else 100",
        ge=1,
        le=1000,
    )
    DEFAULT_SPEND_CAP: AmountByCurrency = setting_field(
        "100.00",
        'an amount in USD, amounts with their currency like "100.00 USD, 150000.00 NGN", or none',
        "the spend cap of a new organization; in a currency without an amount there is none",
    )
    DUNNING_MINIMUM_MINOR: int = setting_field(
        100,
        "a whole number of cents, or of whole units of a currency without decimals",
        "the amount due from which an organization gets reminders",
        ge=0,
        le=1_000_000,
    )
    BRAND_NAME: str = setting_field(
        "saas-api", "a name of at most 60 characters", "the name of the product on pages and in mails", max_length=60
    )
    BRAND_LOGO: Path | None = setting_field(
        None,
        "an SVG or PNG file of at most 64 KB",
        "logo with the name in it, in place of the mark and the name on pages",
    )
    BRAND_COLOR: str | None = setting_field(
        None,
        "a colour like #4338ca that is dark enough for white text, with a contrast of 4.5 to #eef0f3",
        "buttons and links on pages and in mails, and a lighter shade of it in the dark theme; indigo if unset",
    )
    SUPPORT_EMAIL: str | None = setting_field(
        None,
        "an email address",
        "where customers get help; replies to mails go there",
        pattern=r"^[^\s@<>()\",;:]+@[^\s@<>()\",;:]+$",
    )
    SUPPORT_URL: str | None = setting_field(
        None, "an address like https://example.com/help", "page where customers get help", pattern=_PAGE
    )
    TERMS_URL: str | None = setting_field(
        None, "an address like https://example.com/terms", "terms of service, in footers", pattern=_PAGE
    )
    PRIVACY_URL: str | None = setting_field(
        None, "an address like https://example.com/privacy", "privacy policy, in footers", pattern=_PAGE
    )
    SELLER_NAME: str | None = setting_field(None, "a name", "the seller on invoices; BRAND_NAME if unset")
    SELLER_ADDRESS: str | None = setting_field(None, "lines separated by |", "the seller's address on invoices")
    SELLER_TAX_ID: str | None = setting_field(None, "a tax id", "the seller's tax id on invoices")
    REQUIRE_VERIFIED_EMAIL: bool | None = setting_field(
        None,
        "0 or 1",
        "asks for a verified email address before live keys, invitations and payments; 1 in production, else 0",
    )

    AUDIT_RETENTION_DAYS: int | None = setting_field(
        None, "days from 90 to 36500", "age at which audit events are deleted; kept if unset", ge=90, le=36_500
    )

    CORS_ORIGINS: Names = setting_field([], "origins separated by commas", "origins of pages that may call the API")
    TRUSTED_PROXIES: int = setting_field(0, "a whole number from 0 to 5", "trusted hops of X-Forwarded-For", ge=0, le=5)
    TRUSTED_PROXY_IPS: Names = setting_field(
        ["127.0.0.1"], "addresses separated by commas", "proxies whose forwarding headers the web server trusts"
    )

    CONNECTIONS_PER_ADDRESS: int = setting_field(
        100,
        "1 to 500",
        "open connections of one address to a process of gunicorn; trusted proxies have no limit",
        ge=1,
        le=500,
    )
    REQUEST_HEAD_SECONDS: int = setting_field(
        10, "seconds from 1 to 60", "time in which gunicorn must have the head of a request", ge=1, le=60
    )
    REQUEST_BODY_SECONDS: int = setting_field(
        30, "seconds from 1 to 300", "time in which gunicorn must have the body of a request", ge=1, le=300
    )
    KEEPALIVE_SECONDS: int = setting_field(
        75,
        "seconds from 1 to 3600",
        "how long an idle connection stays open",
        ge=1,
        le=3600,
    )

    ADMIN_ALLOWED_IPS: Names = setting_field(
        [],
        "networks like 203.0.113.0/24 separated by commas",
        "networks from which the operator console can be opened; any if unset",
    )
    WEBHOOK_ALLOWED_NETWORKS: Names = setting_field(
        [], "networks like 10.0.0.0/8 separated by commas", "private networks that webhooks may be sent to"
    )

    SMTP_HOST: str | None = setting_field(
        None, "a host name", "the SMTP server; mail is stored in instance/mail if unset"
    )
    SMTP_PORT: int = setting_field(587, "a port from 1 to 65535", "the port of that server", ge=1, le=65535)
    SMTP_USERNAME: str | None = setting_field(None, "a name", "the user name at that server; no login if unset")
    SMTP_PASSWORD: SecretStr | None = setting_field(None, "a password", "the password of that user")
    SMTP_TLS: Literal["starttls", "tls", "none"] = setting_field(
        "starttls", "starttls, tls or none", "encryption of the connection to that server"
    )
    SMTP_FROM: str | None = setting_field(
        None, "an address", "the sender of mail; no-reply@ the host of APP_URL if unset"
    )

    STRIPE_SECRET_KEY: SecretStr | None = setting_field(None, "a key like sk_...", "Stripe takes payments if set")
    STRIPE_WEBHOOK_SECRET: SecretStr | None = setting_field(
        None, "a secret like whsec_...", "verifies the signature of Stripe's events"
    )
    STRIPE_API_BASE: str = setting_field(
        "https://api.stripe.com", "an address", "address of Stripe's API", pattern=_ADDRESS
    )
    PAYSTACK_SECRET_KEY: SecretStr | None = setting_field(None, "a key like sk_...", "Paystack takes payments if set")
    PAYSTACK_API_BASE: str = setting_field(
        "https://api.paystack.co", "an address", "the address of Paystack's API", pattern=_ADDRESS
    )
    PAYMENTS_ALLOW_MOCK: bool = setting_field(False, "0 or 1", "lets the mock provider take payments in production too")

    MESSAGES_ALLOW_MOCK: bool = setting_field(
        False, "0 or 1", "lets the mock provider deliver and bill live messages in production too"
    )
    SERVICES: Names = setting_field(
        ["all"], "all, none, or names", "services of this application that are offered, such as messages"
    )

    MOCK_LATENCY_MS: int = setting_field(
        0, "milliseconds from 0 to 10000", "time a mock provider takes", ge=0, le=10_000
    )
    MOCK_FAILURE_RATE: Decimal = setting_field(
        Decimal(0), "a number from 0 to 1", "share of mock sends that are rejected", ge=0, le=1
    )

    WEB_CONCURRENCY: int | None = setting_field(
        None, "1 to 64", "web processes; 2 if unset, in production twice the CPUs plus one up to 8", ge=1, le=64
    )
    LEASE_SECONDS: int = setting_field(
        30, "seconds from 2 to 600, over twice MOCK_LATENCY_MS", "how long a worker's claim on rows lasts", ge=2, le=600
    )
    SWEEP_SECONDS: int = setting_field(
        10, "seconds from 1 to 300", "seconds between scans for due work without a wake-up", ge=1, le=300
    )
    DRAIN_SECONDS: int = setting_field(
        20, "seconds from 1 to 300", "how long one job keeps claiming due rows", ge=1, le=300
    )

    WEBHOOK_CONCURRENCY: int = setting_field(64, "1 to 512", "webhooks a worker sends at the same time", ge=1, le=512)

    REVISION: str | None = setting_field(
        None, "a commit", "the commit that the image was built from; GET /version shows it", pattern=r"^[\w.-]{1,64}$"
    )
    LOG_LEVEL: str = setting_field(
        "info",
        'debug, info, warning or error; packages of their own as in "info,saas_api.webhooks=debug"',
        "lowest level that is logged",
        pattern=rf"^{_LEVEL}(,saas_api(\.[a-z_]+)*={_LEVEL})*$",
    )
    METRICS_TOKEN: SecretStr | None = setting_field(
        None,
        "at least 16 characters",
        "bearer token of /metrics; without one only this machine may read it",
        min_length=16,
    )
    OTEL_EXPORTER_OTLP_ENDPOINT: str | None = setting_field(
        None,
        "an address like http://collector:4318",
        "collector of OpenTelemetry that gets traces by HTTP; none are made if unset",
        pattern=_ADDRESS,
    )
    SENTRY_DSN: SecretStr | None = setting_field(
        None, "the address of a Sentry project", "gets unexpected errors, without contents of requests"
    )
    ACCESS_LOG: bool | None = setting_field(
        None, "0 or 1", "logs each request, with its caller and duration; on in production"
    )
    APP_FAULTS: bool = setting_field(False, "0 or 1", "enables FAULT; refused in production")
    TIME_SCALE: int = setting_field(1, "1 to 1000", "divides delays for the fault tests", ge=1, le=1000)
    FAULT: str | None = setting_field(
        None,
        "name:kill, name:raise or name:sleep=SECONDS",
        "the fault point to trigger, and its effect",
    )

    @field_validator("SERVICES", mode="before")
    @classmethod
    def _read_none(cls, value: Any) -> Any:
        return [] if value == "none" else value

    @field_validator("APP_HOSTS", "CORS_ORIGINS", "SERVICES", *_NETWORKS, mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator(*REQUIRED_IN_PRODUCTION)
    @classmethod
    def _require_in_production(cls, value: Any, info: ValidationInfo) -> Any:
        return declaration.reject_if(value is None and _is_production(info), value, "required in production; ")

    @field_validator("SECRET_KEY", "JWT_SECRET")
    @classmethod
    def _require_length(cls, value: SecretStr | None) -> SecretStr | None:
        parts = value.get_secret_value().split(",") if value else []
        return declaration.reject_if(any(len(part) < 32 for part in parts), value)

    @field_validator("API_KEY_PEPPER")
    @classmethod
    def _require_version(cls, value: SecretStr | None) -> SecretStr | None:
        entries = value.get_secret_value().split(",") if value else []
        return declaration.reject_if(not all(re.fullmatch(r"[0-9]{1,4}:[^:]{32,}", entry) for entry in entries), value)

    @field_validator("BRAND_NAME")
    @classmethod
    def _require_one_line(cls, value: str) -> str:
        return declaration.reject_if(not value.isprintable() or not value.strip(), value).strip()

    @field_validator("BRAND_LOGO")
    @classmethod
    def _check_logo(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        problem = logo.logo_problem(ROOT / value)
        return declaration.reject_if(bool(problem), ROOT / value, problem)

    @field_validator("BRAND_COLOR")
    @classmethod
    def _check_color(cls, value: str | None) -> str | None:
        if value is None:
            return None
        declaration.reject_if(not colors.is_color(value.lower()), value)
        return declaration.reject_if(not brand.is_legible(value.lower()), value.lower(), "it is too light; ")

    @field_validator("APP_URL")
    @classmethod
    def _require_encryption(cls, value: str | None, info: ValidationInfo) -> str | None:
        is_refused = _is_production(info) and value is not None and not production.is_encrypted_or_local(value)
        return declaration.reject_if(is_refused, value, "https is required in production, except for localhost; ")

    @field_validator("SECRET_KEY", "JWT_SECRET", "API_KEY_PEPPER", "METRICS_TOKEN")
    @classmethod
    def _require_random_secret(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None or not _is_production(info):
            return value
        secrets = production.split_secrets(value.get_secret_value())
        problem = next(filter(None, map(production.secret_problem, sorted(secrets))), None)
        declaration.reject_if(problem is not None, value, f"refused in production: {problem}; ")
        for name in GENERATED_SECRETS:
            other = info.data.get(name)
            is_shared = other is not None and secrets & production.split_secrets(other.get_secret_value())
            declaration.reject_if(bool(is_shared), value, f"must differ from {name} in production; ")
        return value

    @field_validator("LIMITS_REDIS_URL")
    @classmethod
    def _check_limits_redis_url(cls, value: str | None) -> str | None:
        if value is not None:
            redis_url.parse(value)
        return value

    @field_validator("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL", "LIMITS_REDIS_URL")
    @classmethod
    def _require_password(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None or not _is_production(info):
            return value
        password = urlsplit(value).password
        is_redis = info.field_name in ("REDIS_URL", "LIMITS_REDIS_URL")
        is_open = is_redis and not value.startswith("unix://") and not password
        declaration.reject_if(is_open, value, "a password is required in production; ")
        problem = production.password_problem(value)
        declaration.reject_if(problem is not None, value, f"refused in production: {problem}; ")
        for name in declaration.ENGINE_SETTINGS:
            other = urlsplit(info.data.get(name) or "")
            is_same_redis = is_redis and other.netloc == urlsplit(value).netloc
            is_shared = password is not None and password == other.password and not is_same_redis
            declaration.reject_if(is_shared, value, f"must not have the password of {name} in production; ")
        return value

    @field_validator("DATABASE_REPLICA_URL")
    @classmethod
    def _require_other_server(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        is_primary = urlsplit(value)[1:] == urlsplit(info.data.get("DATABASE_URL") or "")[1:]
        declaration.reject_if(is_primary, value, "it is the address of the primary; ")
        problem = production.password_problem(value) if _is_production(info) else None
        return declaration.reject_if(problem is not None, value, f"refused in production: {problem}; ")

    @field_validator("CELLS", "CELLS_OWNER")
    @classmethod
    def _check_cells(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if info.field_name == "CELLS_OWNER" and value:
            declaration.reject_if(value.keys() != info.data.get("CELLS", {}).keys(), value)
        if _is_production(info):
            problem = next(filter(None, map(production.password_problem, value.values())), None)
            declaration.reject_if(problem is not None, value, f"refused in production: {problem}; ")
        return value

    @field_validator("SERVICES")
    @classmethod
    def _require_all_or_names(cls, value: list[str]) -> list[str]:
        return declaration.reject_if("all" in value and len(value) > 1, value)

    @field_validator("LEASE_SECONDS")
    @classmethod
    def _require_longer_than_call(cls, value: int, info: ValidationInfo) -> int:
        return declaration.reject_if(2 * info.data.get("MOCK_LATENCY_MS", 0) > 1000 * value, value)

    @field_validator("APP_HOSTS")
    @classmethod
    def _check_hosts(cls, value: list[str]) -> list[str]:
        return declaration.reject_if(
            not all(re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", host) for host in value), value
        )

    @field_validator("CORS_ORIGINS")
    @classmethod
    def _check_origins(cls, value: list[str]) -> list[str]:
        return declaration.reject_if(not all(re.fullmatch(r"https?://[^/\s*]+", origin) for origin in value), value)

    @field_validator(*_NETWORKS)
    @classmethod
    def _normalize_networks(cls, value: list[str]) -> list[str]:
        return [str(ipaddress.ip_network(address)).removesuffix("/32").removesuffix("/128") for address in value]

    @field_validator("WEBHOOK_ALLOWED_NETWORKS")
    @classmethod
    def _require_private_networks(cls, value: list[str]) -> list[str]:
        return declaration.reject_if(
            not all(map(production.is_private_network, value)),
            value,
            "these cover public addresses, which are allowed anyway; ",
        )

    @field_validator("DATABASE_URL", "DATABASE_OWNER_URL", "DATABASE_REPLICA_URL")
    @classmethod
    def _normalize_database_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        scheme, separator, rest = value.partition("://")
        if not separator or scheme not in ("postgres", "postgresql", "postgresql+psycopg2"):
            raise ValueError("form")
        return f"postgresql+psycopg2://{rest}"

    @field_validator("APP_FAULTS", "TIME_SCALE")
    @classmethod
    def _refuse_in_production(cls, value: int, info: ValidationInfo) -> int:
        return declaration.reject_if(int(value) != (info.field_name == "TIME_SCALE") and _is_production(info), value)


def _is_production(info: ValidationInfo) -> bool:
    return info.data.get("APP_ENV") == "production"


def load(*, env_file: Path | None = ROOT / ".env", **overrides: Any) -> dict[str, Any]:
    """The settings as plain values by name, with computed addresses and generated secrets.

    env_file: None reads the environment alone
    overrides: win over every source
    raises: ConfigurationError with every problem
    """
    problems = declaration.invalid_env_lines(env_file) if env_file and env_file.exists() else []
    if problems:
        raise ConfigurationError(problems)
    try:
        settings = Settings(_env_file=env_file, **overrides)  # type: ignore[call-arg] # BaseSettings takes it
    except ValidationError as error:
        raise ConfigurationError(declaration.format_problems(error, Settings.model_fields)) from None
    except OSError as error:
        raise ConfigurationError([f"a mounted secret cannot be read: {error}"]) from None
    values = {name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in settings}
    if not all(values[name] for name in GENERATED_SECRETS):
        generated = instance.load_or_create_secrets(INSTANCE)
        values |= {name: values[name] or secret for name, secret in generated.items()}
    database_url, own_redis_url = instance.engine_urls(INSTANCE)
    app_url = settings.APP_URL or f"http://localhost:{settings.API_PORT}"
    computed = {
        "DATABASE_URL": database_url,
        "DATABASE_OWNER_URL": settings.DATABASE_URL or instance.owner_database_url(INSTANCE),
        "CELLS_OWNER": settings.CELLS,
        "REDIS_URL": own_redis_url,
        "LIMITS_REDIS_URL": settings.REDIS_URL or own_redis_url,
        "APP_URL": app_url,
        "LISTEN_ON": "all" if settings.APP_ENV == "production" else "loopback",
        "SELLER_NAME": settings.BRAND_NAME,
        "SMTP_FROM": str(Address(settings.BRAND_NAME, "no-reply", urlsplit(app_url).hostname or "")),
        "WEB_CONCURRENCY": min(2 * (os.cpu_count() or 1) + 1, 8) if settings.APP_ENV == "production" else 2,
        "AUTH_ALLOWANCE_FACTOR": 1 if settings.APP_ENV == "production" else 100,
    }
    for name in ("ACCESS_LOG", "REQUIRE_VERIFIED_EMAIL"):
        if values[name] is None:
            values[name] = settings.APP_ENV == "production"
    return {
        "INSTANCE": str(INSTANCE),
        "VERSION": VERSION,
        **values,
        **{name: values[name] or value for name, value in computed.items()},
    }
