"""What an action of operators is, and what it acts on; `actions` is the table of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from flask import Response

from saas_api.admin.context import Preview, ReasonForm
from saas_api.core.web.forms import Form

SubjectText = str | Callable[[Any], str]


@dataclass(frozen=True)
class Subject:
    """A kind of thing that operators act on.

    rule: URL of its actions; `{action}` stands for the name of the action
    load: returns the subject from a session and the arguments of the URL; raises NotFound
    key: the ids that identify the subject to `Action.run`
    section, section_page: title and endpoint of the list that the subject is in
    page: endpoint of the subject's page; the section's without one
    label: text of the link to the subject's page
    is_tenant_owned: whether its audit events are in the log of an organization, too
    """

    rule: str
    load: Callable[..., Any]
    key: Callable[[Any], tuple[Any, ...]]
    section: str
    section_page: str
    page: str = ""
    label: Callable[[Any], str] | None = None
    is_tenant_owned: bool = True


@dataclass(frozen=True)
class Action:
    """An action of an operator on a subject.

    name: last part of the URL of its form
    title, consequence, button: texts, or functions of the subject
    success_message: the notice afterwards, or a function of the subject and the result
    run: called with the OperatorContext, the key of the subject and the values of the form
    preview: called with the subject and the refused form or None
    next_page: URL after the action, from the result; the subject's page without it
    show_result: renders the result instead of redirecting, such as a secret that is shown once
    is_idempotent: a form that is submitted twice runs once
    """

    name: str
    subject: str
    title: SubjectText
    consequence: SubjectText
    button: SubjectText
    success_message: str | Callable[[Any, Any], str]
    run: Callable[..., Any]
    form: type[ReasonForm] = ReasonForm
    button_style: SubjectText = "primary"
    role: Literal["support", "admin"] = "admin"
    is_idempotent: bool = False
    is_confirmed_by_name: bool = False
    preview: Callable[[Any, Form | None], Preview] | None = None
    next_page: Callable[[Any], str] | None = None
    show_result: Callable[[Any], Response] | None = None

    @property
    def key(self) -> str:
        """Names the endpoint of the action and its macros in templates."""
        return f"{self.subject}_{self.name.replace('-', '_')}"
