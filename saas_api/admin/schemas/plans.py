"""What the pages of the catalogue are asked."""

from saas_api.core.fields import Id, QueryInt, Schema


class PreviewQuery(Schema):
    """Whose usage, and of how many periods before the running one; 0 is the running one."""

    organization_id = Id("org", load_default=None)
    periods = QueryInt(minimum=0, maximum=12, load_default=1)
