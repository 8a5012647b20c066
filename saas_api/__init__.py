"""The platform. Importing this package does not build the application: `saas_api.app.create_app` does."""
