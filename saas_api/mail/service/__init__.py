"""The verbs of mail: write one, and hand over what is due."""

from saas_api.mail.service.delivery import due, hand_over_some
from saas_api.mail.service.writing import DRAIN, send

__all__ = ["DRAIN", "due", "hand_over_some", "send"]
