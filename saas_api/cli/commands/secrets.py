"""`flask secrets`: secrets that are stored encrypted under SECRET_KEY."""

from saas_api.accounts import authenticators
from saas_api.cli import output, types
from saas_api.cli.errors import CommandError, CommandGroup
from saas_api.core.crypto import DecryptionFailed
from saas_api.webhooks import secrets as webhook_secrets

group = CommandGroup("secrets", help="Secrets that are stored encrypted.")


@group.command("reencrypt")
@types.json_option
def reencrypt(*, as_json: bool) -> None:
    """Encrypt stored secrets with the first SECRET_KEY, so that an older one can be removed.

    They sign the requests of webhooks, and belong to authenticator apps of users.

    Example: SECRET_KEY=new,old flask secrets reencrypt
    """
    counts = {}
    try:
        for name, reencrypt_secrets in (
            ("webhooks", webhook_secrets.reencrypt_secrets),
            ("two_factor", authenticators.reencrypt_secrets),
        ):
            counts[name] = reencrypt_secrets(output.progress("Encrypting secrets again", is_silent=as_json))
    except DecryptionFailed:
        raise CommandError(
            "A secret was encrypted under a SECRET_KEY that is not given. Give SECRET_KEY=new,old."
        ) from None
    output.record_audit("secrets.reencrypted", ("secrets", "all"), counts)
    output.print_result(counts, [f"Secrets encrypted again: {sum(counts.values())}."], as_json=as_json)
