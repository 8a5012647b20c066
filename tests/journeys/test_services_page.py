"""docs/services.md, pasted into a shell: the four ways, a bill for each, and a new service of the application."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import documented
from tests.support.documented import ROOT, documents


def copy_checkout(target: Path) -> None:
    """Copy what the repository has, as a team's own checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("docs/screenshots"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


@pytest.mark.long
@pytest.mark.usefixtures("app")
def test_every_way_of_the_page_works_as_it_is_written(config: dict[str, Any], tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    copy_checkout(checkout)
    environment = documented.shell_environment(config)
    blocks = documented.read_blocks("docs/services.md")
    new = next(block for block in blocks if "services new" in block)
    written = documented.paste([new], "", environment, checkout)[0].split()
    assert "saas_api/weather/api.py" in written
    with documented.running_server(environment, tmp_path / "log", checkout) as address:
        outputs = documented.paste([block for block in blocks if block is not new], address, environment, checkout)
    _, _, plan, _, _, verified, gate, events, named, settled, _, called, seen = outputs
    assert documents(plan)[0]["organization"]["plan"] == "lookups"
    [answer] = documents(verified)
    assert (answer["code"], answer["units"], answer["plan"]) == ("VALID", 1, "lookups")
    assert "HTTP/1.1 200 OK" in gate
    assert "X-Plan: lookups" in gate
    sent, reversed_event = documents(events)
    assert (sent["accepted"], sent["rejected"], [error["id"] for error in sent["errors"]]) == (2, 1, ["job-3"])
    assert reversed_event
    assert documents(named)
    assert documents(settled)[0]["status"] == "settled"
    assert documents(called)[-1] == {"text": "Lagos", "length": 5}
    usage, bill = documents(seen)
    quantities = {row["meter"]: row["quantity"] for row in usage["by_meter"]}
    assert (quantities["lookups"], quantities["weather"]) == ("9", "1")
    amounts = {line["description"]: line["amount"] for line in bill["lines"]}
    assert sum(float(amount) for description, amount in amounts.items() if "ookup" in description) > 0


@pytest.mark.long
@pytest.mark.usefixtures("app")
def test_test_of_a_new_service_passes(config: dict[str, Any], tmp_path: Path) -> None:
    copy_checkout(tmp_path)
    environment = documented.shell_environment(config)
    documented.paste([".venv/bin/flask services new forecasts"], "", environment, tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "tests/forecasts"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout
