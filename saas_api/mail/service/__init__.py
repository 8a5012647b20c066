"""The verbs of mail: write one, and hand over what is due."""

from saas_api.mail.service.again import ContentErased, send_again
from saas_api.mail.service.delivery import due, hand_over_some
from saas_api.mail.service.writing import DRAIN, send

__all__ = ["DRAIN", "ContentErased", "due", "hand_over_some", "send", "send_again"]
