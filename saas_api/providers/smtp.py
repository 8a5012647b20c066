"""The SMTP adapter for the platform's own mail."""

import contextlib
import smtplib
import ssl
from collections.abc import Generator, Iterable

from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.providers import mail
from saas_api.providers.mail import OutboundEmail
from saas_api.providers.messages import SendResult

log = get_logger(__name__)

TIMEOUT_SECONDS = 10
_RETRY = SendResult("retry", "provider_unavailable")


class SmtpEmailProvider:
    """Sends mails through the SMTP server of the settings."""

    def deliver(self, emails: Iterable[OutboundEmail]) -> Generator[tuple[OutboundEmail, SendResult], None, None]:
        """Send mails one after another; once a connection fails, the others are to be retried."""
        connection: smtplib.SMTP | None = None
        is_unreachable = False
        try:
            for email in emails:
                if connection is None and not is_unreachable:
                    connection = _connect()
                    is_unreachable = connection is None
                outcome = _send(connection, email) if connection else _RETRY
                if connection and connection.sock is None:
                    connection = None
                yield email, outcome
        finally:
            if connection:
                with contextlib.suppress(OSError, smtplib.SMTPException):
                    connection.quit()


def _connect() -> smtplib.SMTP | None:
    host, port, security = setting("SMTP_HOST"), setting("SMTP_PORT"), setting("SMTP_TLS")
    with contextlib.ExitStack() as stack:
        try:
            if security == "tls":
                context = ssl.create_default_context()
                connection: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_SECONDS, context=context)
            else:
                connection = smtplib.SMTP(host, port, timeout=TIMEOUT_SECONDS)
            stack.callback(connection.close)
            if security == "starttls":
                connection.starttls(context=ssl.create_default_context())
            if setting("SMTP_USERNAME"):
                connection.login(setting("SMTP_USERNAME"), setting("SMTP_PASSWORD") or "")
        except (OSError, smtplib.SMTPException) as error:
            log.warning("smtp_away", kind=type(error).__name__, code=getattr(error, "smtp_code", None))
            return None
        stack.pop_all()
        return connection


def _send(connection: smtplib.SMTP, email: OutboundEmail) -> SendResult:
    try:
        connection.send_message(mail.build_mime_message(email), to_addrs=[email.recipient])
    except ValueError:
        return SendResult("rejected", "unsendable")
    except smtplib.SMTPNotSupportedError:
        return SendResult("rejected", "unsupported_recipient")
    except smtplib.SMTPRecipientsRefused as error:
        [(code, _)] = error.recipients.values()
        return SendResult("rejected", "invalid_recipient") if code >= 500 else _RETRY
    except smtplib.SMTPDataError as error:
        return SendResult("rejected", "content_refused") if error.smtp_code >= 500 else _RETRY
    except (OSError, smtplib.SMTPException) as error:
        log.warning("smtp_failed", kind=type(error).__name__, code=getattr(error, "smtp_code", None))
        connection.close()
        return _RETRY
    return SendResult("sent", reference=email.id.hex)
