"""Wire shapes of the wallet and of credit notes."""

from marshmallow import fields

from saas_api.core.http import Id, Pagination, Schema, Timestamp


class BalanceOut(Schema):
    """What the next invoice in a currency may use."""

    amount = fields.String()
    currency = fields.String()


class EntryOut(Schema):
    """A movement of a grant; below zero when it was used."""

    amount = fields.String()
    reason = fields.String(metadata={"enum": ["apply", "unapply", "expire", "void"]})
    invoice_id = Id("inv", allow_none=True)
    at = Timestamp()


class GrantOut(Schema):
    """Money in the wallet, by where it came from."""

    id = Id("grt")
    kind = fields.String(metadata={"enum": ["promotional", "purchased", "credit_note", "overpayment", "carry"]})
    amount = fields.String()
    remaining = fields.String()
    currency = fields.String()
    effective_at = Timestamp()
    expires_at = Timestamp(allow_none=True)
    created_at = Timestamp()
    entries = fields.List(fields.Nested(EntryOut()))


class WalletOut(Schema):
    """GET /billing/wallet."""

    balances = fields.List(fields.Nested(BalanceOut()))
    grants = fields.List(fields.Nested(GrantOut()))
    pagination = fields.Nested(Pagination())


class NoteLineOut(Schema):
    """What a credit note takes off one line."""

    line_id = Id("lin")
    amount = fields.String()


class CreditNoteOut(Schema):
    """A credit note; its amount is the sum of where it goes."""

    id = Id("crn")
    number = fields.String()
    invoice_id = Id("inv")
    invoice_number = fields.String(allow_none=True)
    amount = fields.String()
    to_due = fields.String()
    to_wallet = fields.String()
    to_refund = fields.String()
    currency = fields.String()
    reason = fields.String()
    memo = fields.String()
    issued_at = Timestamp()
    lines = fields.List(fields.Nested(NoteLineOut()))


class CreditNotesOut(Schema):
    """GET /billing/credit-notes."""

    credit_notes = fields.List(fields.Nested(CreditNoteOut()))
    pagination = fields.Nested(Pagination())
