"""Setting(name): the only access to configuration."""

from pathlib import Path
from typing import Any

from flask import current_app

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: templates/, migrations/ and docs/ stand in it."""


def setting(name: str) -> Any:
    """Value of a setting by its name in `config.py`.

    raises: KeyError for an unknown name; RuntimeError outside an application context
    """
    return current_app.config[name]
