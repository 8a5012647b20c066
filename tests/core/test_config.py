"""Settings are read once; all invalid ones are reported at once, by name."""

from pathlib import Path
from typing import Any

import pytest

from config import GENERATED_SECRETS, REQUIRED_IN_PRODUCTION, ConfigurationError, Settings, load


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)


def problems_of(**overrides: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(**{"env_file": None, **overrides})
    return [problem.split(":", 1)[0] for problem in caught.value.problems]


def test_all_invalid_settings_are_reported_at_once_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PORT", "none")
    monkeypatch.setenv("JWT_SECRET", "short")
    monkeypatch.setenv("DATABASE_URL", "mysql://localhost/x")
    monkeypatch.setenv("CORS_ORIGINS", "*")
    assert sorted(problems_of()) == ["API_PORT", "CORS_ORIGINS", "DATABASE_URL", "JWT_SECRET"]


def test_problem_does_not_contain_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET", "hunter2")
    with pytest.raises(ConfigurationError) as caught:
        load(env_file=None)
    assert "hunter2" not in str(caught.value)


def test_production_requires_engines_and_secrets() -> None:
    assert sorted(problems_of(APP_ENV="production")) == sorted(REQUIRED_IN_PRODUCTION)


def test_replica_is_another_server_than_the_primary() -> None:
    urls = {"DATABASE_URL": "postgresql://saas_app@db-1/saas", "DATABASE_REPLICA_URL": "postgres://saas_app@db-1/saas"}
    assert problems_of(**urls) == ["DATABASE_REPLICA_URL"]
    assert problems_of(**{**urls, "DATABASE_REPLICA_URL": "mysql://db-2/saas"}) == ["DATABASE_REPLICA_URL"]
    values = load(env_file=None, **{**urls, "DATABASE_REPLICA_URL": "postgres://saas_app@db-2/saas"})
    assert values["DATABASE_REPLICA_URL"] == "postgresql+psycopg2://saas_app@db-2/saas"


def test_production_refuses_faults() -> None:
    assert "APP_FAULTS" in problems_of(APP_ENV="production", APP_FAULTS=True)


def test_unknown_name_in_the_env_file_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("RATE_LIMT=5\n", encoding="utf-8")
    assert problems_of(env_file=path) == ["RATE_LIMT"]


def test_environment_wins_over_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".env"
    path.write_text("API_PORT=1111\nRATE_LIMIT_PER_MINUTE=7\n", encoding="utf-8")
    monkeypatch.setenv("API_PORT", "2222")
    values = load(env_file=path)
    assert (values["API_PORT"], values["RATE_LIMIT_PER_MINUTE"]) == (2222, 7)


def test_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PORT", "")
    assert load(env_file=None)["API_PORT"] == 8080


def test_cells_are_addresses_by_name() -> None:
    values = load(env_file=None, CELLS="eu=postgres://app@eu/db  us=postgresql://app@us/db")
    assert values["CELLS"] == {"eu": "postgresql+psycopg2://app@eu/db", "us": "postgresql+psycopg2://app@us/db"}
    assert values["CELLS_OWNER"] == values["CELLS"]
    assert load(env_file=None)["CELLS"] == {}


@pytest.mark.parametrize(
    "value",
    ["eu", "eu=http://a/b", "EU=postgresql://a/b", "home=postgresql://a/b", "a=postgresql://a/b a=postgresql://c/d"],
)
def test_cells_without_a_name_or_an_address_of_their_own_are_a_problem(value: str) -> None:
    assert problems_of(CELLS=value) == ["CELLS"]


def test_each_cell_has_an_owner() -> None:
    owners = {"CELLS": "eu=postgresql://a/b", "CELLS_OWNER": "us=postgresql://a/b"}
    assert problems_of(**owners) == ["CELLS_OWNER"]


@pytest.mark.parametrize(
    ("value", "minors"),
    [
        ("50.5", {"USD": 5_050}),
        ("100.00 USD, 150000 NGN,9000 JPY", {"USD": 10_000, "NGN": 15_000_000, "JPY": 9_000}),
        ("none", {}),
        ("", {}),
    ],
)
def test_default_spend_cap_has_an_amount_for_each_currency(
    monkeypatch: pytest.MonkeyPatch, value: str, minors: dict[str, int]
) -> None:
    """B13: 100.00 is another amount in each currency."""
    monkeypatch.setenv("DEFAULT_SPEND_CAP", value)
    assert load(env_file=None)["DEFAULT_SPEND_CAP"] == minors


# One value has ISO 4217's code of no currency.
@pytest.mark.parametrize("value", ["1.005", "5 XXX", "1.5 JPY", "-1", "5 USD, 6", "5 USD NGN", ","])
def test_invalid_default_spend_cap_is_reported(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """B13: an amount in a currency that has no such decimals, or is not known."""
    monkeypatch.setenv("DEFAULT_SPEND_CAP", value)
    assert problems_of() == ["DEFAULT_SPEND_CAP"]


def test_secret_is_read_from_a_mounted_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    path.write_text("s" * 40 + "\n", encoding="utf-8")
    monkeypatch.setenv("JWT_SECRET_FILE", str(path))
    assert load(env_file=None)["JWT_SECRET"] == "s" * 40


def test_missing_mounted_secret_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET_FILE", str(tmp_path / "missing"))
    with pytest.raises(ConfigurationError, match="missing"):
        load(env_file=None)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_scheme_of_postgresql_is_accepted(scheme: str) -> None:
    values = load(env_file=None, DATABASE_URL=f"{scheme}://u:p@db:5432/saas")
    assert values["DATABASE_URL"] == "postgresql+psycopg2://u:p@db:5432/saas"


def test_secrets_are_generated_once_outside_production() -> None:
    first, second = load(env_file=None), load(env_file=None)
    assert all(first[name] for name in REQUIRED_IN_PRODUCTION)
    assert [first[name] for name in GENERATED_SECRETS] == [second[name] for name in GENERATED_SECRETS]


def test_generated_secrets_are_readable_by_their_owner_only() -> None:
    load(env_file=None)
    assert (Path(__file__).parents[2] / "instance" / "secrets.json").stat().st_mode & 0o077 == 0


GOOD = {
    "APP_ENV": "production",
    "APP_URL": "https://api.acme.example",
    "DATABASE_URL": "postgresql://saas_app:iOZb9qVw@db/saas",
    "DATABASE_OWNER_URL": "postgresql://saas:Jx0Tq4mK@db/saas",
    "REDIS_URL": "redis://:Lr7Yk2pN@cache:6379/0",
    "SECRET_KEY": "f3c9a1d27be84056913fd0c7a2e5b864",
    "JWT_SECRET": "08b7e6a5c4d3f2190a8b7c6d5e4f3a21",
    "API_KEY_PEPPER": "2:7d20c4f19b3e8a65d1f07c2b94e6a385,1:41b8f3c02e9d76a5840c1f7be25d93a6",
}
RANDOM = "5e0b91c7d3a24f86b0e7c92d1fa4386d"


def test_production_starts_with_good_settings() -> None:
    assert load(env_file=None, **GOOD)["APP_ENV"] == "production"


def test_production_requires_verified_addresses_unless_it_is_set() -> None:
    """R9: an account with an address that is not its own invited others."""
    assert load(env_file=None, **GOOD)["REQUIRE_VERIFIED_EMAIL"] is True
    assert load(env_file=None, **GOOD, REQUIRE_VERIFIED_EMAIL=False)["REQUIRE_VERIFIED_EMAIL"] is False
    assert load(env_file=None, APP_ENV="test")["REQUIRE_VERIFIED_EMAIL"] is False


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("SECRET_KEY", "a" * 32, "too little variety"),
        ("JWT_SECRET", "abcd1234" * 4, "too little variety"),
        ("SECRET_KEY", "abcdefghijklmnopqrstuvwxyz0123456789", "too little variety"),
        ("JWT_SECRET", "change-me-to-32-random-characters", "an example"),
        ("JWT_SECRET", f"{RANDOM},{'b' * 32}", "too little variety"),
        ("JWT_SECRET", GOOD["SECRET_KEY"], "must differ from SECRET_KEY"),
        ("API_KEY_PEPPER", f"2:{RANDOM},1:{GOOD['JWT_SECRET']}", "must differ from JWT_SECRET"),
        ("API_KEY_PEPPER", f"1:{'p' * 32}", "too little variety"),
        ("METRICS_TOKEN", "a" * 16, "too little variety"),
        ("METRICS_TOKEN", GOOD["SECRET_KEY"], "must differ from SECRET_KEY"),
        ("APP_URL", "http://api.acme.example", "https is required"),
        ("WEBHOOK_ALLOWED_NETWORKS", "0.0.0.0/0", "public addresses"),
        ("WEBHOOK_ALLOWED_NETWORKS", "10.0.0.0/8,::/0", "public addresses"),
        ("WEBHOOK_ALLOWED_NETWORKS", "10.0.0.0/7", "public addresses"),
        ("WEBHOOK_ALLOWED_NETWORKS", "169.254.0.0/16", "public addresses"),
        ("REDIS_URL", "redis://cache:6379/0", "a password is required"),
        ("REDIS_URL", "redis://:iOZb9qVw@cache:6379/0", "must not have the password of DATABASE_URL"),
        ("LIMITS_REDIS_URL", "redis+cluster://cache:6379,cache:6380", "a password is required"),
        ("LIMITS_REDIS_URL", "redis+sentinel://:Lr7Yk2pN@cache:6379/limits/0", "expected an address as for REDIS_URL"),
        ("DATABASE_URL", "postgresql://saas:saas@db/saas", "its password is an example"),
    ],
)
def test_production_refuses_a_bad_value_by_name(name: str, value: str, reason: str) -> None:
    """R10, R12: a guessable, shared or unencrypted value stops the start, and the line names the setting."""
    with pytest.raises(ConfigurationError) as caught:
        load(env_file=None, **{**GOOD, name: value})
    [problem] = caught.value.problems
    assert problem.startswith(f"{name}: ")
    assert reason in problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("APP_URL", "http://localhost:8080"),
        ("APP_URL", None),
        ("WEBHOOK_ALLOWED_NETWORKS", "10.1.0.0/16,fd00::/8,127.0.0.1"),
        ("REDIS_URL", "unix:///run/redis.sock"),
        ("LIMITS_REDIS_URL", "redis://:Lr7Yk2pN@cache:6379/1"),
        ("LIMITS_REDIS_URL", "rediss+cluster://limits:uN4vT8qX@cache:6380,cache:6381"),
        ("DATABASE_URL", "postgresql:///saas?host=/run/postgresql"),
    ],
)
def test_production_accepts_local_and_private_addresses(name: str, value: str | None) -> None:
    load(env_file=None, **{**GOOD, name: value})


def test_generated_secrets_are_good_enough_for_production() -> None:
    generated = load(env_file=None)
    load(env_file=None, **GOOD | {name: generated[name] for name in GENERATED_SECRETS})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BRAND_NAME", "a" * 61),
        ("BRAND_NAME", "two\nlines"),
        ("BRAND_COLOR", "indigo"),
        ("BRAND_COLOR", "#ffd400"),
        ("BRAND_LOGO", "missing.svg"),
        ("SUPPORT_EMAIL", "help"),
        ("SUPPORT_URL", "javascript:alert(1)"),
        ("TERMS_URL", "acme.example/terms"),
        ("PRIVACY_URL", 'https://acme.example/"x'),
    ],
)
def test_invalid_setting_of_the_brand_is_one_line(name: str, value: str) -> None:
    assert problems_of(**{name: value}) == [name]


def test_brand_is_the_seller_and_the_sender() -> None:
    values = load(env_file=None, BRAND_NAME="Acme, Inc.", BRAND_COLOR="#0B6E4F", APP_URL="https://api.acme.example")
    assert values["SELLER_NAME"] == "Acme, Inc."
    assert values["BRAND_COLOR"] == "#0b6e4f"
    assert values["SMTP_FROM"] == '"Acme, Inc." <no-reply@api.acme.example>'
