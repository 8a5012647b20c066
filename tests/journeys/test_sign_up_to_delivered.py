"""A visitor signs up, creates a key, sends a message, and sees it delivered and counted."""

from collections.abc import Callable

from flask.testing import FlaskClient

from saas_api.core import clock


def test_new_user_sends_a_message_and_sees_it_delivered_and_counted(
    client: FlaskClient, work: Callable[[], None]
) -> None:
    clock.freeze_time(clock.now())  # the month must not end between sending and counting
    signed_up = client.post(
        "/api/v1/auth/register",
        json={"organization_name": "Acme", "email": "alice@acme.example", "password": "correct horse battery"},
    )
    assert signed_up.status_code == 201
    owner = {"Authorization": f"Bearer {signed_up.json['data']['token']}"}

    response = client.post("/api/v1/keys", json={"name": "first"}, headers=owner)
    assert response.status_code == 201
    key = {"X-API-Key": response.json["data"]["key"]}

    sent = client.post(
        "/api/v1/messages/send",
        json={"to": "+2348012345678", "type": "sms", "message": "Hello"},
        headers=key,
    )
    assert sent.status_code == 202
    assert sent.json["data"]["status"] == "queued"
    message_id = sent.json["data"]["message_id"]

    work()

    message = client.get(f"/api/v1/messages/{message_id}", headers=key).json["data"]
    assert message["status"] == "delivered"
    assert message["attempts"] == 1

    summary = client.get("/api/v1/usage", headers=key).json["data"]["summary"]
    assert summary["total_requests"] == 1
    assert (summary["list_cost"], summary["total_cost"]) == ("0.01", "0.00")

    bill = client.get("/api/v1/billing/calculate", headers=owner).json["data"]
    assert (bill["total_requests"], bill["total_amount"], bill["status"]) == (1, "0.00", "calculating")

    stats = client.get("/api/v1/dashboard/stats", headers=owner).json["data"]["stats"]
    assert (stats["current_month_requests"], stats["active_api_keys"]) == (1, 1)
