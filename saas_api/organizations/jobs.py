"""The organizations' entry on the timetable."""

from saas_api.organizations import service as organizations


def publish_generations() -> None:
    """Tell Redis again what changed lately."""
    organizations.publish_generations()
