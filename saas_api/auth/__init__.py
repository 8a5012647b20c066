"""Sign-up, sign-in, sessions and their tokens."""

from saas_api.core.domain import Domain

DOMAIN = Domain(
    name="auth",
    id_prefixes=("ses",),
    system_purposes=(
        "auth.account",
        "auth.failure",
        "auth.join",
        "auth.look",
        "auth.passwords",
        "auth.principal",
        "auth.profile",
        "auth.refresh",
        "auth.register",
        "auth.sessions",
        "auth.sign_in",
        "auth.verification",
    ),
)
