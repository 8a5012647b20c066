"""Commands of services: create, list, show, rotate, revoke, routes, openapi, portal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from saas_api.accounts.audit import OperatorContext
from saas_api.admin import actions
from saas_api.cli import action_commands, document_files, new_service, output, types
from saas_api.cli.action_commands import Description
from saas_api.cli.errors import CommandGroup
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.document_reader import InvalidDocument
from saas_api.core.settings import ROOT
from saas_api.services import route_file, routes, services
from saas_api.services.models import Service
from saas_api.services.services import IssuedToken

group = CommandGroup("services", help="Services behind the platform, and their tokens.")


@action_commands.action_command(group, "create", actions.get_action("services", "create"), is_reason_required=False)
def create(issued: IssuedToken) -> Description:
    """Create a service and print its token. The token is shown once.

    Example: flask services create lookups --allowed-ips 203.0.113.0/24 --scopes lookups:export
    """
    return _describe_token(issued)


@group.command("list")
@types.json_option
def list_services(*, as_json: bool) -> None:
    """List services, including revoked ones.

    Example: flask services list
    """
    with tenancy.system_session("services.command") as session:
        scopes = services.list_scopes(session)
        rows = [_to_json(session, service, scopes) for service in services.list_services(session)]
    lines = [
        f"{row['name']:<20} {row['status']:<8} {len(row['tokens'])} tokens  last seen {row['last_seen_at'] or 'never'}"
        for row in rows
    ]
    output.print_result({"services": rows}, lines or ["There are no services."], as_json=as_json)


@group.command("show")
@click.argument("name")
@types.json_option
def show(name: str, *, as_json: bool) -> None:
    """Show a service with its networks, scopes, tokens and routes.

    Example: flask services show lookups
    """
    with tenancy.system_session("services.command") as session:
        service = services.get_service(session, name)
        row = _to_json(session, service, services.list_scopes(session))
        row["routes"] = route_file.to_document(routes.get_table(session, service))
        row["openapi"] = service.openapi
    lines = [
        f"{row['name']} ({row['id']}): {row['status']}, last seen {row['last_seen_at'] or 'never'}",
        f"  networks: {', '.join(row['allowed_ips']) or 'any'}",
        f"  scopes: {', '.join(row['scopes'])}",
        f"  portal embedded by: {', '.join(row['portal_origins']) or 'no other site'}",
        *(f"  token {token['hint']}..., ends {token['expires_at'] or 'never'}" for token in row["tokens"]),
        *(f"  route {route['method']} {route['path']}" for route in row["routes"]["routes"]),
        f"  other requests: {row['routes']['default']}",
    ]
    output.print_result(row, lines, as_json=as_json)


@action_commands.action_command(group, "rotate", actions.get_action("service", "rotate"), is_reason_required=False)
def rotate(issued: IssuedToken, _name: str) -> Description:
    """Give a service a new token and print it. The old one stays valid for the grace period.

    Example: flask services rotate lookups --grace 86400
    """
    return _describe_token(issued)


@action_commands.action_command(group, "revoke", actions.get_action("service", "revoke"), is_reason_required=False)
def revoke(service: Service, name: str) -> Description:
    """Revoke a service. Its tokens stop working immediately.

    Example: flask services revoke lookups --reason "replaced by numbers"
    """
    data = {"name": name, "revoked_at": clock.format_rfc3339(service.revoked_at) if service.revoked_at else None}
    return Description(data, [f"{name} is revoked."])


@group.command("routes")
@click.argument("name")
@click.option("--file", "file", type=document_files.FILE, required=True, help="File with the routes, in JSON.")
@types.json_option
def set_routes(name: str, file: Path, *, as_json: bool) -> None:
    """Replace the routes of a service for forward authentication. The first matching route applies.

    Example: flask services routes lookups --file routes.json
    """
    try:
        table = route_file.load_routes(document_files.read_document(file))
    except InvalidDocument as error:
        document_files.exit_with_problems(file, error, {}, as_json=as_json)
    with tenancy.system_session("services.command") as session:
        routes.set_routes(session, name, _operator("routes"), table)
    data = {"name": name, **route_file.to_document(table)}
    unmatched = "admitted" if table.is_open else "refused"
    lines = [f"{name} has {len(table.routes)} routes; what none matches is {unmatched}."]
    output.print_result(data, lines, as_json=as_json)


@group.command("openapi")
@click.argument("name")
@click.argument("file", type=document_files.FILE)
@types.json_option
def set_openapi(name: str, file: Path, *, as_json: bool) -> None:
    """Set the OpenAPI document of a service. The API explorer shows it.

    Example: flask services openapi lookups openapi.json
    """
    try:
        document = document_files.read_document(file)
    except InvalidDocument as error:
        document_files.exit_with_problems(file, error, {}, as_json=as_json)
    with tenancy.system_session("services.command") as session:
        services.set_openapi(session, name, _operator("openapi"), document)
    data = {"name": name, "paths": len(document["paths"])}
    output.print_result(data, [f"{name} has an OpenAPI document with {data['paths']} paths."], as_json=as_json)


@action_commands.action_command(group, "portal", actions.get_action("service", "portal"), is_reason_required=False)
def set_portal_origins(service: Service, name: str) -> Description:
    """Set which origins may embed the customer portal. Without --origins, none may.

    Links that the service creates can also lead back to these origins.

    Example: flask services portal lookups --origins https://app.example.com
    """
    data = {"name": name, "portal_origins": list(service.portal_origins)}
    return Description(data, [f"{name}: {', '.join(service.portal_origins) or 'no other site'} can embed the portal."])


def _operator(command: str) -> OperatorContext:
    return OperatorContext(output.current_os_user(), f"flask services {command}")


def _describe_token(issued: IssuedToken) -> Description:
    service = issued.service
    data = {
        "id": ids.format_id("svc", service.id),
        "name": service.name,
        "token": issued.token,
        "old_token_ends_at": clock.format_rfc3339(issued.ends_at) if issued.ends_at else None,
    }
    lines = [f"{service.name} ({data['id']})", "Keep this; it is not shown again:", issued.token]
    if data["old_token_ends_at"]:
        lines.append(f"The old token is valid until {data['old_token_ends_at']}.")
    return Description(data, lines)


def _to_json(session: SystemSession, service: Service, scopes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    return {
        "id": ids.format_id("svc", service.id),
        "name": service.name,
        "status": "revoked" if service.revoked_at else "active",
        "allowed_ips": list(service.allowed_ips),
        "scopes": list(scopes.get(service.name, [])),
        "portal_origins": list(service.portal_origins),
        "tokens": [
            {
                "hint": token.hint,
                "created_at": clock.format_rfc3339(token.created_at),
                "expires_at": clock.format_rfc3339(token.expires_at) if token.expires_at else None,
            }
            for token in services.list_active_tokens(session, service.id)
        ],
        "last_seen_at": clock.format_rfc3339(service.last_seen_at) if service.last_seen_at else None,
        "created_at": clock.format_rfc3339(service.created_at),
        "revoked_at": clock.format_rfc3339(service.revoked_at) if service.revoked_at else None,
    }


@group.command("new")
@click.argument("name")
@types.json_option
def new(name: str, *, as_json: bool) -> None:
    """Create a service inside this application: its package, test and plan file.

    Example: flask services new lookups
    """
    with tenancy.system_session("services.command") as session:
        files = new_service.write_service(session, ROOT, name)
    names = [str(path.relative_to(ROOT)) for path in files]
    output.print_result({"files": names}, names, as_json=as_json)
