"""What operators do with services outside this application, in the console and as commands."""

from saas_api.admin import context, services
from saas_api.admin.action_types import Action
from saas_api.admin.organization_actions import ConfirmByNameForm
from saas_api.admin.services import CreateServiceForm, OpenApiForm, PortalOriginsForm, RotateTokenForm
from saas_api.services import services as service_changes

ACTIONS: tuple[Action, ...] = (
    Action(
        "create",
        "services",
        "Create service",
        "A service is an external program that serves metered calls. Its token is shown once, on the next page, and "
        "gives access to the service endpoints across all organizations.",
        "Create service",
        "",
        context.in_write_session(service_changes.create_service),
        CreateServiceForm,
        show_result=services.show_token,
    ),
    Action(
        "rotate",
        "service",
        lambda detail: f"Rotate the token of {detail.name}",
        "Creates a new token, which is shown once, on the next page. Choose how long the old token stays valid, so "
        "that you can deploy the new one first.",
        "Rotate token",
        "",
        context.in_write_session(services.rotate_token),
        RotateTokenForm,
        preview=services.preview_rotation,
        show_result=services.show_token,
    ),
    Action(
        "revoke",
        "service",
        lambda detail: f"Revoke {detail.name}",
        "Its tokens are rejected from the next call on, and its customers are no longer served. This can't be undone, "
        "and you can't use the name again.",
        "Revoke service",
        lambda detail, _: f"{detail.name} revoked. Its tokens are rejected from now on.",
        context.in_write_session(service_changes.revoke_service),
        ConfirmByNameForm,
        "danger",
        is_confirmed_by_name=True,
    ),
    Action(
        "portal",
        "service",
        lambda detail: f"Customer portal of {detail.name}",
        "Pages of these origins can embed the customer portal, and links that the service creates can lead back to "
        "them. Without any, no other site can.",
        "Save origins",
        "Origins saved.",
        context.in_write_session(service_changes.set_portal_origins),
        PortalOriginsForm,
        preview=services.preview_portal,
    ),
    Action(
        "openapi",
        "service",
        lambda detail: f"OpenAPI document of {detail.name}",
        "The API reference shows it with the customer's key filled in. Save an empty document to remove it.",
        "Save document",
        "Document saved.",
        context.in_write_session(services.set_openapi),
        OpenApiForm,
    ),
)
