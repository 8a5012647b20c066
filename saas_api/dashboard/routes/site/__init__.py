"""What surrounds the sections: the public pages, choices a browser remembers, the frame of every page."""

from flask import Blueprint

from saas_api.dashboard.routes.site.preferences import bp as preferences
from saas_api.dashboard.routes.site.public import bp as public

bp = Blueprint("site", __name__)
bp.register_blueprint(public)
bp.register_blueprint(preferences)
