"""Mails in the form the outside takes."""

from email.message import EmailMessage
from email.utils import format_datetime
from urllib.parse import urlsplit

from saas_api.core.settings import setting
from saas_api.providers import Letter


def compose(letter: Letter) -> EmailMessage:
    """The mail with all its headers, text first and HTML beside it.

    raises: ValueError for an address or subject that fits no header
    """
    message = EmailMessage()
    message["From"] = setting("SMTP_FROM")
    message["To"] = letter.recipient
    message["Subject"] = letter.subject
    message["Date"] = format_datetime(letter.written_at)
    message["Message-ID"] = f"<{letter.id.hex}@{urlsplit(setting('APP_URL')).hostname}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(letter.text)
    message.add_alternative(letter.html, subtype="html")
    return message
