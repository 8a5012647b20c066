"""The way out to addresses that strangers name: each is vetted, and the connection goes to the vetted one."""

from saas_api.core.net.sending import Reply, TimedOut, post
from saas_api.core.net.vetting import Blocked, Unreachable, check_url

__all__ = ["Blocked", "Reply", "TimedOut", "Unreachable", "check_url", "post"]
