"""The documentation portal, and the OpenAPI document of the API."""
