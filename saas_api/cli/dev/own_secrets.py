"""The secrets of an instance that was given none: made once, and kept in a file only its owner reads."""

import contextlib
import json
import os
import secrets
from pathlib import Path

SECRETS = ("SECRET_KEY", "JWT_SECRET", "API_KEY_PEPPER")


def own_secrets(instance: Path) -> dict[str, str]:
    """The secrets of an instance by their settings' names."""
    path = instance / "secrets.json"
    if not path.exists():
        instance.mkdir(mode=0o755, exist_ok=True)
        made = {name: secrets.token_hex(32) for name in SECRETS}
        made["API_KEY_PEPPER"] = f"1:{made['API_KEY_PEPPER']}"
        draft = path.with_suffix(f".{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(made), encoding="utf-8")
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    return dict(json.loads(path.read_text(encoding="utf-8")))
