"""The application gunicorn and the flask command load: settings in, application out."""

import sys

from config import ConfigurationError, Settings, load
from saas_api import create_app

try:
    app = create_app(load())
except ConfigurationError as error:
    sys.exit(f"The settings cannot be used:\n{error}")

app.config["SETTINGS"] = Settings  # `flask settings export` writes their table
