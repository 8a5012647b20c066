"""A time that is taken for now, as `--at` names it."""

import sys
from datetime import UTC, datetime

from saas_api.core import clock
from saas_api.core.settings import setting


def taken_for_now(text: str | None) -> datetime:
    """Read `--at`, which production refuses; without it, the present instant."""
    if text is None:
        return clock.now()
    if not text.strip():
        sys.exit("--at needs a TIME; write 2026-05-01T00:00:00Z.")
    if setting("APP_ENV") == "production":
        sys.exit("--at is refused when APP_ENV=production.")
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        sys.exit(f"{text} is no time; write 2026-05-01T00:00:00Z.")
    return time if time.tzinfo else time.replace(tzinfo=UTC)
