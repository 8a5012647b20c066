"""The platform's own mail: rooms call `mail.send`, and the worker hands over what was committed."""

from saas_api.core.domain import Domain

DOMAIN = Domain(name="mail", system_purposes=("mail.deliver", "mail.due"))
