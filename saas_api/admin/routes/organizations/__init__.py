"""Pages about organizations: found, looked at, and everything an operator may do to one."""

from saas_api.admin.routes.organizations import acts, money
from saas_api.admin.routes.organizations.pages import bp

__all__ = ["acts", "bp", "money"]
