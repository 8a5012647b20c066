"""What endpoints are told of a message: once for each state it ends in, and of its acceptance where they ask for it."""

from saas_api.messages.rules import State, event_data
from saas_api.webhooks import service as webhooks

_KINDS = {"queued": "accepted"}


def news_of(state: State) -> webhooks.News:
    """The event that a message has come into a state."""
    kind = f"message.{_KINDS.get(state.status, state.status)}"
    return webhooks.News(kind, webhooks.Subject(state.id, state.attempts), event_data(state), state.mode)
