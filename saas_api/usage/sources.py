"""The endpoints that reports show for the sources of usage."""

endpoints: dict[str, tuple[str, str]] = {}
"""Method and path by source, of the metered views of this application."""


def get_endpoint(source: str) -> tuple[str, str]:
    """Method and path of a source: of a view, or of an endpoint that a service names, such as "POST /v1/lookups".

    returns: an empty method for any other source
    """
    if source in endpoints:
        return endpoints[source]
    method, space, path = source.partition(" ")
    return (method, path) if space and method.isupper() and path.startswith("/") else ("", source)
