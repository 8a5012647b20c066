"""The example session in docs/webhooks.md, run in a shell against a web server and a worker."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support import documented
from tests.support.documented import documents
from tests.support.ports import free_port
from tests.webhooks.test_event_document import PAGE

BLOCKS_OF_PAGE = re.findall(r"^```bash\n(.*?)^```", PAGE.partition("## What arrives")[0], re.MULTILINE | re.DOTALL)
SETTLE = "sleep 4; kill $RECEIVER; wait $RECEIVER || true; cat receiver.log\n"


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow loopback endpoints, as `make run` does."""
    monkeypatch.setenv("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8,::1/128")


@pytest.mark.long
@pytest.mark.usefixtures("app")
def test_example_session_receives_and_recovers_events(config: dict[str, Any], tmp_path: Path) -> None:
    environment, port = documented.shell_environment(config), str(free_port())
    blocks = documented.read_blocks("README.md")
    script = [f"cd {tmp_path}\n{blocks[0]}", blocks[1], *BLOCKS_OF_PAGE, SETTLE]
    script = [part.replace("sleep 3", "sleep 6") for part in script]  # on a busy machine everything takes longer
    commands = [part.replace("9000", port).replace("receiver.py &", "receiver.py >> receiver.log &") for part in script]
    commands = [part.replace("WEBHOOK_SECRET=$SECRET", f"PORT={port} WEBHOOK_SECRET=$SECRET") for part in commands]
    with documented.running_server(environment, tmp_path / "log") as address:
        _, _, _, _, tested, _, recovered, log = documented.paste(commands, address, environment)
    assert documents(tested)[0]["event_type"] == "webhook.test"
    assert documents(recovered)[-1]["count"] in (0, 1)  # 0 when an automatic retry came first
    lines = log.split()
    assert lines.count("webhook.test") == 1
    assert lines.count("message.delivered") == 2
    assert "refused:" not in log
