"""The client's own tests, and its types as a program in TypeScript sees them."""

import shutil
import tempfile
from pathlib import Path

from tests.support import node

PROGRAM = """
import express from "express";
import { Client, EventBuffer, verifyWebhook, type Verification } from "saas-api-client";
import { metered } from "saas-api-client/express";

const client = new Client({ baseUrl: "http://127.0.0.1", token: "svc_token" });
const route = { meter: "lookups", quantity: (request: express.Request) => Number(request.params.count) };
express().get("/:count", metered(client, route), (request, response) => {
  const plan: string | undefined = request.customer?.plan;
  response.json({ plan });
});
async function main(): Promise<void> {
  const verification: Verification = await client.verify({ key: "sk_live_alice" });
  const { message_id } = await client.messages.send({ type: "sms", to: "+2348012345678", message: verification.code });
  const status: string = (await client.messages.get(message_id)).status;
  await new EventBuffer(client).record({ type: "lookups", subject: "org_alice", data: { quantity: status.length } });
  // @ts-expect-error a code that does not exist
  verification.code === "VALIDATED";
  // @ts-expect-error a message has a type
  await client.messages.send({ to: "+2348012345678", message: "Hello" });
  console.log((await verifyWebhook("whsec_", new Headers(), "")).type);
}
void main();
"""


def test_own_tests_pass(environment: dict[str, str]) -> None:
    assert "# fail 0" in node.run("npm", "test", folder=node.PACKAGE, environment=environment)


def test_types_fit_programs_in_both_module_systems(environment: dict[str, str]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="types-", dir=node.PACKAGE / "test"))  # within the package, which it imports
    programs = [folder / name for name in ("program.mts", "program.cts")]
    options = (
        "--noEmit",
        "--strict",
        "--skipLibCheck",
        "--target",
        "es2022",
        "--module",
        "nodenext",
        "--types",
        "node",
    )
    try:
        for program in programs:
            program.write_text(PROGRAM)
        command = ("npx", "tsc", *options, *map(str, programs))
        node.run(*command, folder=node.PACKAGE, environment=environment)
    finally:
        shutil.rmtree(folder)
