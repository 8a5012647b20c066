"""The platform's own mail: domains enqueue mails in their transactions, and workers send them."""

from saas_api.core.domain import Domain

DOMAIN = Domain(name="mail", system_purposes=("mail.deliver", "mail.due"))
