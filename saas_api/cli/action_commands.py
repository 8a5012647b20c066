"""Makes commands from the table of operators' actions: arguments from the subject, options from the form."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from marshmallow import fields

from saas_api.accounts.audit import OperatorContext
from saas_api.admin.actions import Action
from saas_api.cli import output
from saas_api.cli.errors import CommandGroup
from saas_api.cli.types import PublicId

REASON_HELP = "Reason, recorded in the organization's audit log."
Description = tuple[Mapping[str, Any], Sequence[str]]
"""What a command prints: a JSON-ready object for programs, lines for a person."""

_ARGUMENTS = {
    "billing_account": (("organization", "org"),),
    "invoice": (("organization", "org"), ("invoice", "inv")),
    "payment": (("payment", "pay"),),
}


def action_command(
    group: CommandGroup,
    name: str,
    action: Action,
    *,
    variants: Mapping[str, tuple[Action, str]] | None = None,
    require: Callable[..., Any] = lambda *_: None,
) -> Callable[[Callable[..., Description]], click.Command]:
    """Add a command that runs an action and prints what the decorated function returns.

    The function takes the result of the action and the key of the subject. Its docstring is the help.

    variants: actions on the same subject that run instead, with the help text, by flag
    require: takes the key, and raises CommandError when there is no such subject
    """
    flags = variants or {}
    names = [name for name, _ in _ARGUMENTS[action.subject]]

    def decorate(describe: Callable[..., Description]) -> click.Command:
        def run(*, reason: str, as_json: bool, **values: Any) -> None:
            key = [values.pop(name) for name in names]
            chosen = [flag for flag in flags if values.pop(flag.removeprefix("--"))]
            if len(chosen) > 1:
                raise click.UsageError(f"{' and '.join(chosen)} exclude each other.")
            require(*key)
            entry = flags[chosen[0]][0] if chosen else action
            result = entry.run(OperatorContext(output.current_os_user(), reason), *key, **values)
            data, lines = describe(result, *key)
            output.print_result(data, lines, as_json=as_json)

        run.__doc__ = describe.__doc__
        command: click.Command = group.command(name, params=_params(action, flags))(run)
        return command

    return decorate


def _params(action: Action, flags: Mapping[str, tuple[Action, str]]) -> list[click.Parameter]:
    arguments = [click.Argument([name], type=PublicId(prefix)) for name, prefix in _ARGUMENTS[action.subject]]
    return [
        *arguments,
        click.Option(["--reason"], required=True, help=REASON_HELP),
        *(_option(name, field) for name, field in action.form().fields.items() if name != "reason"),
        *(click.Option([flag], is_flag=True, help=text) for flag, (_, text) in flags.items()),
        click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object and nothing else."),
    ]


def _option(name: str, field: fields.Field[Any]) -> click.Option:
    if not isinstance(field, fields.Boolean):
        raise TypeError(f"{name}: only flags become options; {type(field).__name__} needs a parameter type")
    return click.Option([field.metadata["option"], name], is_flag=True, help=field.metadata["help"])
