"""Starts the web with the server that the setting SERVER names."""

import os
import sys

from flask import Flask

import config


def load_application() -> Flask:
    """The product."""
    from wsgi import app  # noqa: PLC0415 - importing it creates the application, which each web process has to itself

    return app


def main() -> None:
    """Serve until SIGTERM; gunicorn takes the place of this process."""
    try:
        settings = config.load()
    except config.ConfigurationError as error:
        sys.exit(f"The settings cannot be used:\n{error}")
    if settings["SERVER"] == "granian":
        from saas_api.core.web import granian_server  # noqa: PLC0415 - gunicorn does not need it

        granian_server.run(settings, load_application)
        return
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "--config", "gunicorn.conf.py", "wsgi:app"])  # noqa: S606 - our own


if __name__ == "__main__":
    main()
