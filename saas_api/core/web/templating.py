"""Jinja: filters and macros of the templates, and the static files that pages load."""

import hashlib
import mimetypes
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any
from uuid import UUID

from flask import Flask, Response, current_app, g, request
from markupsafe import Markup

from saas_api.core import access, brand, clock, formatting, ids, time_zones
from saas_api.core.access import public_view
from saas_api.core.errors import NotFound
from saas_api.core.web import compression, forms, pages, portal_mount
from saas_api.core.web.compression import Encoding
from saas_api.core.web.forms import Form

ASSET_FOLDERS = {
    "app.css": "saas_api/static/app.css",
    "app.js": "saas_api/static/app.js",
    "docs.css": "saas_api/docs/static/docs.css",
    "docs.js": "saas_api/docs/static/docs.js",
    "favicon.svg": "saas_api/static/favicon.svg",
    "htmx.min.js": "saas_api/static/vendor/htmx.min.js",
    "swagger-ui-bundle.js": "flask_swagger_ui/dist/swagger-ui-bundle.js",
    "swagger-ui.css": "flask_swagger_ui/dist/swagger-ui.css",
}
_IMMUTABLE = "public, max-age=31536000, immutable"
_IMAGE_CSP = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
"""For an SVG that is opened by itself: as an image of a page it runs nothing anyway."""
_RELATIVE_LIMIT = timedelta(hours=24)


def init_templates(app: Flask) -> None:
    """Register filters, the macros `ui` and `charts`, and the route of static files."""
    environment = app.jinja_env
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(FILTERS)
    environment.globals.update(
        asset=asset_url,
        brand=brand.template_global,
        no_form=Form(),
        csrf_token=forms.csrf_token,
        form_key=forms.new_form_key,
        filter_url=pages.filter_url,
        first_rows=pages.first_rows,
        date_presets=list_date_presets,
        may=can,
        may_open=can_open,
        in_portal=portal_mount.is_portal_request,
        plural=pluralize,
    )
    app.add_url_rule("/static/<name>", "static", serve_asset)
    environment.globals["ui"] = environment.get_template("_macros.html").module
    environment.globals["charts"] = environment.get_template("_chart.html").module


@dataclass(frozen=True)
class Asset:
    """A static file.

    version: 12 hex digits of its SHA-256
    """

    body: bytes
    version: str
    media_type: str
    _compressed: dict[Encoding, bytes] = field(default_factory=dict)

    def compressed(self, encoding: Encoding) -> bytes:
        """The body in an encoding; it is compressed once."""
        if encoding not in self._compressed:
            self._compressed[encoding] = compression.compress(self.body, encoding, is_stored=True)
        return self._compressed[encoding]


def asset_url(name: str) -> str:
    """URL of a static file; it changes with the content."""
    return f"/static/{name}?v={_asset(name).version}"


@public_view
def serve_asset(name: str) -> Response:
    """Serve a static file."""
    if name not in ASSET_FOLDERS and name != (brand.current_brand().logo_asset or None):
        raise NotFound
    asset = _asset(name)
    response = Response(asset.body, mimetype=asset.media_type)
    if encoding := compression.negotiate(response):
        response.set_data(asset.compressed(encoding))
        compression.mark_compressed(response, encoding)
    is_current = request.args.get("v") == asset.version
    response.headers["Cache-Control"] = _IMMUTABLE if is_current else "no-cache"
    if asset.media_type == "image/svg+xml":
        response.headers["Content-Security-Policy"] = _IMAGE_CSP
    return response


def _asset(name: str) -> Asset:
    """A static file of this application; it is read once."""
    assets: dict[str, Asset] = current_app.extensions.setdefault("assets", {})
    if name not in assets:
        body = _read_file(name, brand.current_brand())
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        assets[name] = Asset(body, hashlib.sha256(body).hexdigest()[:12], media_type)
    return assets[name]


def _read_file(name: str, shown: brand.Brand) -> bytes:
    """The content of a static file; style sheet and icon have the colour of the brand."""
    if shown.logo and name == shown.logo_asset:
        return shown.logo.read_bytes()
    package, _, path = ASSET_FOLDERS[name].partition("/")
    body = files(package).joinpath(path).read_bytes()
    if shown.has_own_color and name == "app.css":
        return body + brand.style_rules(shown.color).encode()
    if shown.has_own_color and name == "favicon.svg":
        return body.replace(brand.DEFAULT_COLOR.encode(), shown.color.encode())
    return body


def format_datetime(instant: datetime | None, zone: str = "UTC", seconds: bool = False) -> str:
    """An instant in a time zone, to the minute or to the second, with a tooltip in UTC."""
    if instant is None:
        return formatting.EMPTY_VALUE
    return _time_element(instant, zone, formatting.format_time(instant, zone, has_seconds=seconds))


def format_relative_time(instant: datetime | None, zone: str = "UTC") -> str:
    """The time since or until an instant within a day, otherwise the instant as `format_datetime` writes it."""
    if instant is None:
        return "never"
    elapsed = clock.now() - instant
    if abs(elapsed) > _RELATIVE_LIMIT:
        return format_datetime(instant, zone)
    return _time_element(instant, zone, formatting.format_elapsed(elapsed), attributes=" data-ago")


def list_date_presets(zone: str) -> list[tuple[str, dict[str, str]]]:
    """Ranges of days up to today for `ui.range`: their names, and the dates of the query."""
    today = clock.now().astimezone(time_zones.get_zone(zone)).date()
    last_days = {"Today": 1, "Last 7 days": 7, "Last 30 days": 30}
    return [
        ("Any time", {}),
        *(
            (name, {"start_date": str(today - timedelta(days=days - 1)), "end_date": str(today)})
            for name, days in last_days.items()
        ),
    ]


def public_id(value: UUID, prefix: str) -> str:
    """An id as the API writes it."""
    return ids.format_id(prefix, value)


def pluralize(count: int, singular: str, plural: str | None = None) -> str:
    """A count and its noun, such as "2 keys"."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def bulk_notice(done: int, skipped: int, verb: str, reason: str, singular: str, plural: str | None = None) -> str:
    """What an act on several rows did: "2 keys revoked. 1 key skipped: already revoked.", for example.

    verb: in the past
    reason: why rows are skipped
    """
    notice = f"{pluralize(done, singular, plural)} {verb}."
    return f"{notice} {pluralize(skipped, singular, plural)} skipped: {reason}." if skipped else notice


def can(permission: str) -> bool:
    """Whether the signed-in user has a permission and can use it here."""
    principal = g.get("principal")
    return principal is not None and not principal.is_impersonating and access.has_permission(principal, permission)


def can_open(permission: str) -> bool:
    """Whether the caller may open pages that require a permission; an operator who views an organization may, too."""
    principal = g.get("principal")
    return principal is not None and access.has_permission(principal, permission)


def _time_element(instant: datetime, zone: str, text: str, attributes: str = "") -> Markup:
    utc = clock.format_rfc3339(instant)
    local = instant.astimezone(time_zones.get_zone(zone))
    title = f"{instant.astimezone(time_zones.get_zone('UTC')):%Y-%m-%d %H:%M:%S} UTC"
    if zone != "UTC":
        title += f", {local:%Y-%m-%d %H:%M:%S} {zone}"
    return Markup('<time datetime="{}" title="{}"{}>{}</time>').format(utc, title, Markup(attributes), text)  # noqa: S704 - attributes are constants here


FILTERS: dict[str, Callable[..., Any]] = {
    "when": format_datetime,
    "ago": format_relative_time,
    "day": formatting.format_date,
    "month": formatting.format_month,
    "money": formatting.format_money,
    "cost": formatting.format_cost,
    "compact_money": formatting.format_compact_money,
    "period": formatting.format_period,
    "unit_price": formatting.format_unit_price,
    "number": formatting.format_number,
    "percent": formatting.format_percent,
    "public_id": public_id,
}
