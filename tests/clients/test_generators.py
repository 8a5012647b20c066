"""A client that openapi-python-client generates; `tests/clients/typescript` compiles that of openapi-typescript."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core.settings import ROOT
from tests.support.accounts import User, make_key
from tests.support.serving import served

PACKAGE = "generated_client"
CONFIG = """
content_type_overrides: {application/pdf: application/octet-stream}
post_hooks: []
"""
NAMED_AFTER_ITS_PLACE = re.compile(r"_response_\d+|_type_[1-9]|_type_\d+_type")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The package that is generated from the committed document."""
    folder = tmp_path_factory.mktemp("generated")
    config = folder / "config.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    command = [str(Path(sys.executable).with_name("openapi-python-client")), "generate", "--meta", "none"]
    command += ["--path", str(ROOT / "docs" / "openapi.json"), "--output-path", str(folder / PACKAGE)]
    result = subprocess.run(
        [*command, "--config", str(config), "--fail-on-warning"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        return importlib.import_module(PACKAGE)


def test_no_model_is_named_after_its_place(generated: ModuleType) -> None:
    """Small: there were 398 models, 89 of them envelopes and three for each parameter with a list of values."""
    models = [path.stem for path in Path(str(generated.__file__)).with_name("models").glob("[a-z]*.py")]
    assert [name for name in models if NAMED_AFTER_ITS_PLACE.search(name)] == []
    assert len(models) < 350


def test_generated_client_sends_a_message_and_reads_it(
    app: Flask, client: FlaskClient, alice: User, generated: ModuleType
) -> None:
    key = make_key(client, alice)["X-API-Key"]
    names = ("send_message", "get_message", "list_messages")
    operations = {name: importlib.import_module(f"{PACKAGE}.api.messages.{name}") for name in names}
    models = importlib.import_module(f"{PACKAGE}.models")
    body = models.MessageIn(to="+2348012345678", message="Hello", type_=models.Channel.SMS)

    def call(name: str, **arguments: Any) -> Any:
        return operations[name].sync(client=caller, **arguments)

    with (
        served(app) as url,
        generated.AuthenticatedClient(
            url, key, prefix="", auth_header_name="X-API-Key", raise_on_unexpected_status=True
        ) as caller,
    ):
        sent, repeated = (call("send_message", body=body, idempotency_key="once").data for _ in range(2))
        read = call("get_message", message_id=sent.message_id).data
        listed = call("list_messages", type_=models.Channel.SMS, status=models.MessageStatus.QUEUED).data
        refused = call("get_message", message_id="msg_0")
    assert sent == repeated
    assert (read.to, read.status, read.sent_at) == ("+2348012345678", models.MessageStatus.QUEUED, None)
    assert [message.message_id for message in listed.messages] == [sent.message_id]
    assert (refused.error.code, refused.success) == ("NOT_FOUND", False)
