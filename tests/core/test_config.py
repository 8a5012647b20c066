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
