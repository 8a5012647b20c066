"""The application gunicorn and the flask command load: settings in, application out."""

import sys

import click

from config import ConfigurationError, Settings, load
from saas_api import cli, create_app

try:
    app = create_app(load())
except ConfigurationError as error:
    sys.exit(f"The settings cannot be used:\n{error}")

if click.get_current_context(silent=True):  # the web never loads the command line
    app.config["SETTINGS"] = Settings  # `flask settings export` writes their table
    cli.init_app(app)
