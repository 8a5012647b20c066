"""Makes commands from the table of operators' actions: arguments from the subject, options from the form."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import click
from marshmallow import fields, validate

from saas_api.accounts import users
from saas_api.accounts.audit import Actor, OperatorContext
from saas_api.admin.action_types import Action
from saas_api.cli import output, types
from saas_api.cli.errors import CommandError, CommandGroup
from saas_api.cli.types import EMAIL, INSTANT, FieldType, ListType, PublicId
from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.fields import Timestamp

REASON_HELP = "Reason, recorded in the organization's audit log."
_ORGANIZATION = click.Argument(["organization_id"], type=PublicId("org"), metavar="ORGANIZATION")
_INVOICE = click.Argument(["invoice_id"], type=PublicId("inv"), metavar="INVOICE")
_KEYS: Mapping[str, tuple[click.Parameter, ...]] = {
    "organization": (_ORGANIZATION,),
    "billing_account": (_ORGANIZATION,),
    "platform_billing": (
        click.Option(
            ["--organization", "organization_id"], type=PublicId("org"), metavar="ID", help="Only this organization."
        ),
    ),
    "invoice": (_ORGANIZATION, _INVOICE),
    "credit_grant": (_ORGANIZATION, click.Argument(["grant_id"], type=PublicId("grt"), metavar="GRANT")),
    "payment": (click.Argument(["payment_id"], type=PublicId("pay"), metavar="PAYMENT"),),
    "refund": (click.Argument(["refund_id"], type=PublicId("rfd"), metavar="REFUND"),),
    "plan": (click.Argument(["plan"]),),
    "meter": (click.Argument(["code"]),),
    "service": (click.Argument(["name"]),),
    "services": (),
    "user": (click.Argument(["user_id"], metavar="USER"),),
}
"""Parameters for the key of each subject; an action on all organizations or on one has an optional one."""


class Description(NamedTuple):
    """What a command prints.

    data: JSON-ready, for programs
    lines: the same for people
    problem: why the command fails although it printed its result
    """

    data: Mapping[str, Any]
    lines: Sequence[str]
    problem: str | None = None


def action_command(
    group: CommandGroup,
    name: str,
    action: Action,
    *,
    variants: Mapping[str, tuple[Action, str]] | None = None,
    is_reason_required: bool = True,
    find_operator: Callable[[str], Actor] | None = None,
) -> Callable[[Callable[..., Description]], click.Command]:
    """Add a command that runs an action and prints what the decorated function returns.

    The function takes the result of the action and the key of the subject. Its docstring is the help.

    variants: actions that run instead, with the help text, by flag; they take options of the action or fewer
    is_reason_required: False records the name of the command as the reason where none is given
    find_operator: the operator with an email address, the first argument then; the OS user acts without it
    """
    flags = variants or {}
    default_reason = None if is_reason_required else f"flask {group.name} {name}"
    params = [*_KEYS[action.subject], *_params(action, flags, default_reason)]
    if find_operator:
        params.insert(0, click.Argument(["operator"], metavar="EMAIL", type=EMAIL))

    def decorate(describe: Callable[..., Description]) -> click.Command:
        def run(*, reason: str, as_json: bool, **values: Any) -> None:
            actor = find_operator(values.pop("operator")) if find_operator else output.current_os_user()
            key = {str(param.name): values.pop(str(param.name)) for param in _KEYS[action.subject]}
            if "user_id" in key:
                key["user_id"] = _find_user_id(key["user_id"])
            entry = _chosen_action(action, flags, key, values)
            output.require_organization(key.get("organization_id"))
            result = entry.run(OperatorContext(actor, reason), *key.values(), **values)
            description = describe(result, *key.values())
            output.print_result(description.data, description.lines, as_json=as_json)
            if description.problem:
                raise CommandError(description.problem)

        run.__doc__ = describe.__doc__
        command: click.Command = group.command(name, params=params)(run)
        return command

    return decorate


def _find_user_id(reference: str) -> UUID:
    """The id of the user with an id or an email address.

    raises: CommandError
    """
    with contextlib.suppress(ValueError):
        return ids.parse_id("usr", reference)
    with tenancy.system_session("cli.users") as session:
        user = users.find_by_email(session, reference.strip())
    if user is None:
        raise CommandError(f"There is no user {reference}; give an id or an email address.")
    return user.id


def _chosen_action(
    action: Action, flags: Mapping[str, tuple[Action, str]], key: Mapping[str, Any], values: dict[str, Any]
) -> Action:
    """The action that the flags choose; removes from the values what it does not take.

    raises: click.UsageError
    """
    chosen = [flag for flag in flags if values.pop(flag.removeprefix("--"))]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude each other.")
    if not chosen:
        return action
    entry, form = flags[chosen[0]][0], action.form()
    missing = [param.opts[0] for param in _KEYS[action.subject] if key[str(param.name)] is None]
    if missing and entry.subject != action.subject:
        raise click.UsageError(f"{chosen[0]} needs {missing[0]}.")
    for name in [name for name in values if name not in entry.form().fields]:
        if values.pop(name):
            raise click.UsageError(f"{chosen[0]} and {_option_name(name, form.fields[name])} exclude each other.")
    return entry


def _params(
    action: Action, flags: Mapping[str, tuple[Action, str]], default_reason: str | None
) -> Iterator[click.Parameter]:
    # A default of None would count as a value, and the option would not be required.
    default = {"required": True} if default_reason is None else {"default": default_reason, "show_default": True}
    yield click.Option(["--reason"], help=REASON_HELP, **default)
    for name, field in action.form().fields.items():
        if name != "reason" and not (action.is_confirmed_by_name and name == "name"):  # the id is typed already
            yield _param(name, field)
    for flag, (_, text) in flags.items():
        yield click.Option([flag], is_flag=True, help=text)
    yield click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object and nothing else.")


def _param(name: str, field: fields.Field[Any]) -> click.Parameter:
    """An argument for a required field, an option for another."""
    if field.required:
        return click.Argument([name], type=_param_type(field))
    names, text = [_option_name(name, field), name], field.metadata["help"]
    if isinstance(field, fields.Boolean):
        return click.Option(names, is_flag=True, help=text)
    metavar = field.metadata.get("metavar")
    if isinstance(field, fields.List):
        item_type = ListType(field.inner)
        return click.Option(names, type=item_type, multiple=True, callback=types.flatten, metavar=metavar, help=text)
    default = None if field.load_default is None else str(field.load_default)
    return click.Option(
        names,
        type=_param_type(field),
        default=default,
        show_default=bool(default),
        metavar=metavar,
        help=text,
    )


def _param_type(field: fields.Field[Any]) -> click.ParamType:
    for validator in field.validators:
        if isinstance(validator, validate.OneOf):
            return click.Choice([str(choice) for choice in validator.choices])
    return INSTANT if isinstance(field, Timestamp) else FieldType(field)


def _option_name(name: str, field: fields.Field[Any]) -> str:
    return str(field.metadata.get("option", f"--{name.replace('_', '-')}"))
