"""Acts of operators: one transaction of the system each, with who acts and why."""

from saas_api.admin.service.operators import acting, operator
from saas_api.admin.service.organizations import (
    BillNow,
    bill_now,
    change_plan,
    grant,
    look,
    look_at_bill,
    look_at_change,
    resume,
    retire_plan,
    set_limits,
    simulate,
    stop_looking,
    suspend,
)
from saas_api.admin.service.people import end_sessions, send_reset
from saas_api.admin.service.running import ask_for_run, ask_for_tick, retry

__all__ = [
    "BillNow",
    "acting",
    "ask_for_run",
    "ask_for_tick",
    "bill_now",
    "change_plan",
    "end_sessions",
    "grant",
    "look",
    "look_at_bill",
    "look_at_change",
    "operator",
    "resume",
    "retire_plan",
    "retry",
    "send_reset",
    "set_limits",
    "simulate",
    "stop_looking",
    "suspend",
]
