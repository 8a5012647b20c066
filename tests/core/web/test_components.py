"""Macros of templates/_macros.html: tables, filters, and rows picked for one act."""

import re
from typing import Any

import pytest
from flask import Flask

from saas_api.core.web.forms import Form


@pytest.fixture
def render(app: Flask) -> Any:
    """Renders a template text in a request for a list."""

    def render_text(source: str, path: str = "/pricing", **context: Any) -> str:
        with app.test_request_context(path):
            return app.jinja_env.from_string(source).render(context)

    return render_text


def test_table_has_a_caption_and_columns_with_priorities(render: Any) -> None:
    text = render("""{% call ui.panel("Keys") %}{{ ui.table_head(["Name", ("Cost", "num p2"), ""]) }}{% endcall %}""")
    assert '<caption class="visually-hidden">Keys</caption>' in text
    assert re.findall(r'<th scope="col"( class="[^"]*")?>(.*?)</th>', text) == [
        ("", "Name"),
        (' class="num p2"', "Cost"),
        ("", '<span class="visually-hidden">Actions</span>'),
    ]
    assert "<caption>2 keys</caption>" in render("""{% call ui.panel(caption="2 keys") %}{% endcall %}""")


def test_picked_rows_are_sent_with_the_button_that_was_pressed(render: Any) -> None:
    text = render("""{% call ui.select_rows("/rows") %}{{ ui.pick("key_1", "Shop") }}
        {% call ui.bulk_bar() %}{{ ui.button("Revoke") }}{% endcall %}{% endcall %}""")
    form, after = text.split("</form>")
    assert 'action="/rows"' in form
    assert 'name="csrf_token"' in form
    assert '<input type="checkbox" name="ids" value="key_1" aria-label="Select Shop">' in form
    assert "Revoke</button>" in form
    assert not after.strip()


def test_status_tabs_show_counts_up_to_a_thousand(render: Any) -> None:
    text = render("{{ ui.status_tabs(items) }}", items=[("All", "/a", True, 1001), ("Failed", "/b", False, None)])
    assert '<a href="/a" aria-current="page">All <span class="count">1,000+</span></a>' in text
    assert '<a href="/b">Failed</a>' in text


def test_presets_keep_other_filters_and_replace_dates(render: Any) -> None:
    source = "{{ ui.range(form, presets) }}"
    presets = [("Any time", {}), ("7 days", {"range": "7d"})]
    form = Form({"start_date": "2026-01-02"})
    text = render(source, "/pricing?type=sms&start_date=2026-01-02&cursor=x", form=form, presets=presets)
    assert re.findall(r'<a href="(.*?)"( aria-current="true")?>', text) == [
        ("/pricing?type=sms", ""),
        ("/pricing?type=sms&amp;range=7d", ""),
    ]
    assert 'type="date" value="2026-01-02"' in text
    text = render(source, "/pricing?range=7d", form=Form(), presets=presets)
    assert '<a href="/pricing?range=7d" aria-current="true">7 days</a>' in text
    assert '<input type="hidden" name="range" value="7d">' in text


def test_names_and_ids_of_people_are_escaped(render: Any) -> None:
    text = render("{{ ui.name(text) }}{{ ui.id(text) }}", text='"><script>')
    assert "<script>" not in text
    assert text.startswith("<bdi>")


def test_menu_and_revealed_fields_need_no_script(render: Any) -> None:
    assert render("""{% call ui.menu("More") %}<a href="/x">X</a>{% endcall %}""").startswith("<details")
    text = render(
        """{% call ui.reveal(ui.select(form, "expiry", "Expires", [("never", "Never"), ("date", "On a date")],
        reveals=["date"])) %}{{ ui.field(form, "day", "Day", "date") }}{% endcall %}""",
        form=Form(),
    )
    assert '<option value="date" data-reveals>' in text
    assert '<div class="reveal">' in text


def test_sparkline_has_a_bar_for_each_value(render: Any) -> None:
    text = render("""{{ ui.sparkline([0, 5, 10], "15 calls") }}""")
    assert re.findall(r'height="([\d.]+)"/>', text) == ["1.0", "24.0", "47.0"]
    assert 'aria-label="15 calls"' in text


def test_long_list_shows_25_rows_until_all_are_asked_for(render: Any) -> None:
    """B6: a list without pages showed thousands of rows."""
    source = """{{ first_rows(rows)|length }} {{ ui.show_all(rows, "members") }}"""
    text = render(source, "/pricing?sort=name", rows=range(1, 10_001))
    assert text.startswith("25 ")
    assert '<a class="button plain" href="/pricing?sort=name&amp;all=1">Show all 10,000 members</a>' in text
    assert render(source, "/pricing?all=1", rows=range(1, 10_001)).strip() == "10000"
    assert render(source, rows=range(25)).strip() == "25"
