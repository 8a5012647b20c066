"""Access to the settings of the running application."""

from pathlib import Path
from typing import Any

from flask import current_app

ROOT = Path(__file__).resolve().parents[2]
"""Root of the repository, with templates/, migrations/ and docs/."""


def setting(name: str) -> Any:
    """Value of a setting, by its name in `config.py`.

    raises: KeyError for an unknown name; RuntimeError outside an application context
    """
    return current_app.config[name]
