"""Writes the files of a new service of this application."""

import json
import keyword
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from saas_api.billing import plans
from saas_api.billing.rating import plan_file
from saas_api.core import domain
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, ValidationFailed

_SKELETON = Path(__file__).with_name("service_skeleton")
_NAME = re.compile(r"[a-z][a-z0-9_]{1,38}")
_LAYER = '    "payments | messages'
_FIRST_PREFIX = "BLUEPRINT_PREFIXES = {\n"


class ServiceExists(Conflict):
    """There is a package, plan file or test of this name; nothing is overwritten."""

    message = "Files of this name exist already; nothing was written."


def write_service(session: SystemSession, root: Path, name: str) -> Sequence[Path]:
    """Write the package, test and plan file of a service, and register it in the routes and the layers.

    root: of the checkout
    returns: the new and changed files
    raises: ValidationFailed for a name that cannot be one of a package; ServiceExists
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name in domain.registry.domains:
        raise ValidationFailed.at_field("name", "Must be lower-case letters, digits and _, and not taken.")
    package, tests = root / "saas_api" / name, root / "tests" / name
    plan = root / "plans" / f"{name}.json"
    if package.exists() or tests.exists() or plan.exists():
        raise ServiceExists
    files = {
        package / "__init__.py": _fill("package", name),
        package / "schemas.py": _fill("schemas", name),
        package / "api.py": _fill("api", name),
        tests / "test_api.py": _fill("test_api", name),
        plan: json.dumps(_plan_document(session, name), indent=2) + "\n",
        **_registrations(root, name),
    }
    for path, text in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(files)


def _fill(template: str, name: str) -> str:
    text = (_SKELETON / f"{template}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(name=name, title=name.title().replace("_", ""))


def _plan_document(session: SystemSession, name: str) -> dict[str, Any]:
    """A plan without base amount, with the prices of the free plan and 0.01 for each call."""
    newest = plans.get_newest_version_id(session, plans.DEFAULT_PLAN)
    document = plan_file.to_document(plans.get_plan_content(session, newest))
    title = name.replace("_", " ").capitalize()
    prices: Mapping[str, Any] = document["prices"]
    return {
        **{key: value for key, value in document.items() if key != "position"},
        "plan": name.replace("_", "-"),
        "name": title,
        "is_public": True,
        "meters": [{"code": name, "name": title, "unit": "call", "service": name}],
        "prices": {**prices, name: {"model": "per_unit", "unit_price": "0.01"}},
    }


def _registrations(root: Path, name: str) -> dict[Path, str]:
    """The routes with the blueprint, and the contract of layers with the package."""
    routes, contracts = root / "saas_api" / "routes.py", root / "pyproject.toml"
    lines = routes.read_text(encoding="utf-8").splitlines(keepends=True)
    line = f"from saas_api.{name} import api as {name}_api\n"
    position = next(i for i, other in enumerate(lines) if other.startswith("from saas_api.") and other > line)
    text = "".join([*lines[:position], line, *lines[position:]])
    text = text.replace(_FIRST_PREFIX, f'{_FIRST_PREFIX}    {name}_api.bp: "/api/v1/{name}",\n', 1)
    layers = contracts.read_text(encoding="utf-8").replace(_LAYER, f"{_LAYER} | {name}", 1)
    return {routes: text, contracts: layers}
