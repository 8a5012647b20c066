"""Wire shapes of the dashboard's JSON."""

from marshmallow import fields

from saas_api.core.http import Id, QueryInt, Schema, Timestamp


class GraphQuery(Schema):
    """How many days to draw."""

    days = QueryInt(minimum=1, maximum=366, load_default=30)


class StatsOrganizationOut(Schema):
    """Whose dashboard it is."""

    id = Id("org")
    name = fields.String()
    plan = fields.String()


class FiguresOut(Schema):
    """The figures at the head of the dashboard."""

    total_requests_30d = fields.Integer()
    current_month_requests = fields.Integer()
    current_month_cost = fields.String()
    currency = fields.String()
    success_rate = fields.Float()
    active_api_keys = fields.Integer()
    total_api_keys = fields.Integer()


class StatsOut(Schema):
    """GET /dashboard/stats."""

    organization = fields.Nested(StatsOrganizationOut())
    stats = fields.Nested(FiguresOut())


class RangeOut(Schema):
    """Local days, both inclusive."""

    start_date = fields.Date()
    end_date = fields.Date()
    timezone = fields.String()
    days = fields.Integer()


class GraphPointOut(Schema):
    """One day of the graph."""

    date = fields.Date()
    requests = fields.Integer()
    success_count = fields.Integer()
    error_count = fields.Integer()


class GraphOut(Schema):
    """GET /dashboard/usage-graph."""

    period = fields.Nested(RangeOut())
    data = fields.List(fields.Nested(GraphPointOut()))


class DashboardKeyOut(Schema):
    """One key and its last thirty days."""

    id = Id("key")
    name = fields.String()
    key = fields.String(metadata={"description": "masked"})
    mode = fields.String()
    is_active = fields.Boolean()
    created_at = Timestamp()
    requests_30d = fields.Integer()
    cost_30d = fields.String()


class KeysOut(Schema):
    """GET /dashboard/api-keys."""

    api_keys = fields.List(fields.Nested(DashboardKeyOut()))
