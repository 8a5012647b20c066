"""Sentences of the audit log: every action that the code records has one."""

import ast
import re
from pathlib import Path

from saas_api.accounts import audit_sentences
from saas_api.billing import profiles
from saas_api.payments.models import PaymentStatus, RefundStatus

ROOT = Path(audit_sentences.__file__).parents[1]
ACTION = re.compile(r"[a-z_]+\.[a-z_]+")
CLOSED_PAYMENTS = (PaymentStatus.FAILED, PaymentStatus.CANCELED)
CLOSED_REFUNDS = (RefundStatus.SUCCEEDED, RefundStatus.FAILED)
COMPUTED = {
    *(f"payment.{status}" for status in CLOSED_PAYMENTS),
    *(f"refund.{status}" for status in CLOSED_REFUNDS),
    *(event_type for event_type, _ in profiles._EVENT_BY_STANDING.values()),
    "console.viewed",
    "console.exported",
}


Nodes = list[ast.AST]


def read_modules() -> dict[Path, list[Nodes]]:
    """The nodes of each module that may record an action, by its folder."""
    modules: dict[Path, list[Nodes]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "audit" in source or ".record(" in source:
            modules.setdefault(path.parent, []).append(list(ast.walk(ast.parse(source))))
    return modules


def texts(node: ast.AST) -> set[str]:
    return {one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)}


def actions_in(node: ast.AST) -> set[str]:
    return {text for text in texts(node) if ACTION.fullmatch(text)}


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def functions_with(argument: str, nodes: Nodes) -> dict[str, tuple[ast.FunctionDef, int]]:
    """Functions that have an argument of a name, with its position."""
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef))
    names = ((function, [one.arg for one in function.args.args]) for function in functions)
    return {function.name: (function, found.index(argument)) for function, found in names if argument in found}


def nouns_by_function(nodes: Nodes) -> dict[str, tuple[str, int]]:
    """Of each function that records f"noun.{verb}": "noun.", and the position of its argument `verb`."""
    return {
        name: (part.values[0].value, position)
        for name, (function, position) in functions_with("verb", nodes).items()
        for part in ast.walk(function)
        if isinstance(part, ast.JoinedStr) and isinstance(part.values[0], ast.Constant)
    }


def recorded_actions() -> set[str]:
    """Names of actions in calls that record and in variables that hold an action, in the whole application."""
    found = set(COMPUTED)
    for modules in read_modules().values():
        shared = {name: noun for nodes in modules for name, noun in nouns_by_function(nodes).items() if name[0] != "_"}
        for nodes in modules:
            nouns, recording = shared | nouns_by_function(nodes), functions_with("action", nodes)
            for node in nodes:
                if isinstance(node, ast.Call):
                    name = name_of(node.func)
                    if "record" in name or name in recording:
                        found |= actions_in(node)
                    if name in nouns:
                        noun, position = nouns[name]
                        found |= {noun + verb for verb in texts(node.args[position])}
                elif isinstance(node, ast.Assign) and any("action" in ast.unparse(one).lower() for one in node.targets):
                    found |= actions_in(node.value)
    return found


def test_every_recorded_action_has_a_sentence() -> None:
    actions = recorded_actions()
    assert {"api_key.created", "webhook_endpoint.tested", "organization.suspended", "audit_log.expired"} <= actions
    assert actions - set(audit_sentences.SENTENCES) == set()
    assert set(audit_sentences.SENTENCES) - actions == set(), "nothing records these"


def test_action_without_a_sentence_becomes_its_words() -> None:
    assert audit_sentences.describe("api_key.created") == ("created API key ", "{target}", "")
    assert audit_sentences.describe("old_thing.done") == ("old thing done", "", "")
