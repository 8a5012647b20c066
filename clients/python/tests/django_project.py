"""A Django project in one module."""

from collections.abc import Mapping
from typing import Any

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.test import override_settings
from django.urls import path

settings.configure(
    SECRET_KEY="django" * 10,
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["saas_api_client.django.ApiKeyMiddleware"],
    SAAS_API={},
    LOGGING_CONFIG=None,
)
django.setup()

from saas_api_client.django import require_key  # noqa: E402 - needs the settings


@require_key(permission="lookups:write", meter="lookups")
def create(request: HttpRequest) -> JsonResponse:
    verification = request.verification
    return JsonResponse({"customer": verification and verification.organization_id})


@require_key(meter="lookups")
async def fail(_request: HttpRequest) -> JsonResponse:
    raise RuntimeError("a fault of the application")


def answer(_request: HttpRequest) -> JsonResponse:
    return JsonResponse({})


urlpatterns = [path("lookups", create), path("fails", fail), path("open", answer), path("healthz", answer)]


def application(options: Mapping[str, Any]) -> Any:
    """Return the project as a WSGI application with settings of the guard."""
    with override_settings(SAAS_API=options):
        return get_wsgi_application()
