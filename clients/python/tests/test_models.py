"""The generated types are those of the committed OpenAPI document, and answers become them."""

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from saas_api_client import _decoding, models

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "clients" / "python"


def test_models_are_current(tmp_path: Path) -> None:
    generated = tmp_path / "models.py"
    subprocess.run([sys.executable, FOLDER / "scripts" / "generate_models.py", generated], check=True, cwd=ROOT)
    committed = (FOLDER / "src" / "saas_api_client" / "models.py").read_text(encoding="utf-8")
    assert committed == generated.read_text(encoding="utf-8"), "run make clients"


def test_answer_with_a_new_property_is_read() -> None:
    answer = {
        "valid": True,
        "code": "VALID",
        "limits": [{"name": "key", "limit": 60, "remaining": 59, "reset_at": "2026-03-01T12:00:00.000Z", "new": 1}],
        "units": "1.500000",
        "new": {"nested": []},
    }
    verification = _decoding.decode(models.Verification, answer)
    assert verification.units == Decimal("1.5")
    assert verification.limits
    assert verification.limits[0].reset_at == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert verification.key_id is None


def test_answer_of_another_shape_is_refused() -> None:
    with pytest.raises(TypeError, match="Verification is an object, not list"):
        _decoding.decode(models.Verification, [])
