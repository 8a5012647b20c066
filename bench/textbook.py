"""POST /send as most tutorials build it with the same libraries: what a user would otherwise write.

ORM look-ups of the key and the organization, a SHA-256 digest of the key, Flask-Limiter with a moving window in Redis,
two ORM inserts in a transaction, and a job of RQ for each message.
"""

import functools
import hashlib
import os
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import redis
from flask import Flask, Response, abort, g, jsonify, request
from flask_limiter import Limiter
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, ValidationError, fields, validate
from rq import Queue
from sqlalchemy import DateTime, ForeignKey, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

SCHEMA = "textbook"


class Base(DeclarativeBase):
    """Base class of the models."""


db = SQLAlchemy(model_class=Base)


class Organization(db.Model):  # type: ignore[name-defined]
    """A tenant."""

    __tablename__ = "organizations"
    __table_args__ = {"schema": SCHEMA}

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    name: Mapped[str] = mapped_column(Text)
    is_active: Mapped[bool] = mapped_column(default=True)


class ApiKey(db.Model):  # type: ignore[name-defined]
    """An API key, found by its digest."""

    __tablename__ = "api_keys"
    __table_args__ = {"schema": SCHEMA}

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    organization_id: Mapped[uuid.UUID] = mapped_column(ForeignKey(Organization.id))
    digest: Mapped[str] = mapped_column(Text, unique=True)
    is_active: Mapped[bool] = mapped_column(default=True)
    organization: Mapped[Organization] = relationship()


class Message(db.Model):  # type: ignore[name-defined]
    """A message to be sent."""

    __tablename__ = "messages"
    __table_args__ = {"schema": SCHEMA}

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    organization_id: Mapped[uuid.UUID] = mapped_column(ForeignKey(Organization.id), index=True)
    channel: Mapped[str] = mapped_column(Text)
    recipient: Mapped[str] = mapped_column(Text)
    body: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text, default="queued")
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=lambda: datetime.now(UTC))


class UsageEvent(db.Model):  # type: ignore[name-defined]
    """A metered call."""

    __tablename__ = "usage_events"
    __table_args__ = {"schema": SCHEMA}

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    organization_id: Mapped[uuid.UUID] = mapped_column(ForeignKey(Organization.id), index=True)
    api_key_id: Mapped[uuid.UUID] = mapped_column(ForeignKey(ApiKey.id))
    message_id: Mapped[uuid.UUID] = mapped_column(ForeignKey(Message.id))
    endpoint: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=lambda: datetime.now(UTC))


class SendSchema(Schema):
    """The body of the request."""

    to = fields.String(required=True, validate=validate.Length(min=1, max=320))
    type = fields.String(required=True, validate=validate.OneOf(["sms", "email"]))
    message = fields.String(required=True, validate=validate.Length(min=1, max=1600))


app = Flask("textbook")
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
db.init_app(app)
redis_url = os.environ["REDIS_URL"]
limiter = Limiter(
    key_func=lambda: request.headers.get("X-API-Key", ""),
    app=app,
    strategy="moving-window",
    storage_uri=redis_url.replace("unix://", "redis+unix://", 1),
    headers_enabled=True,
)
queue = Queue(connection=redis.Redis.from_url(redis_url))


View = Callable[..., tuple[Response, int]]


def require_api_key(view: View) -> View:
    """Find the key and its organization, or answer 401."""

    @functools.wraps(view)
    def checked(*arguments: Any, **options: Any) -> tuple[Response, int]:
        digest = hashlib.sha256(request.headers.get("X-API-Key", "").encode()).hexdigest()
        key = ApiKey.query.filter_by(digest=digest, is_active=True).first()
        if key is None or not key.organization.is_active:
            abort(401)
        g.api_key = key
        return view(*arguments, **options)

    return checked


@app.post("/send")
@limiter.limit("1000000/minute")
@require_api_key
def send() -> tuple[Response, int]:
    """Store a message and its usage, and leave the delivery to a worker."""
    try:
        body = SendSchema().load(request.get_json())
    except ValidationError as error:
        return jsonify({"errors": error.messages}), 400
    key = g.api_key
    message = Message(
        organization_id=key.organization_id, channel=body["type"], recipient=body["to"], body=body["message"]
    )
    db.session.add(message)
    db.session.flush()
    db.session.add(
        UsageEvent(organization_id=key.organization_id, api_key_id=key.id, message_id=message.id, endpoint=request.path)
    )
    db.session.commit()
    queue.enqueue("textbook.deliver", str(message.id))
    return jsonify({"id": str(message.id), "status": message.status, "created_at": message.created_at}), 202


@app.get("/healthz")
def health() -> Response:
    """Answer that the process serves."""
    return jsonify({})


def create_tables() -> None:
    """Create the schema with an organization and the key of the environment."""
    with app.app_context():
        db.session.execute(db.text(f"CREATE SCHEMA {SCHEMA}"))
        db.session.commit()
        db.create_all()
        organization = Organization(name="Acme")
        digest = hashlib.sha256(os.environ["API_KEY"].encode()).hexdigest()
        db.session.add(ApiKey(organization=organization, digest=digest))
        db.session.commit()


if __name__ == "__main__":
    create_tables()
