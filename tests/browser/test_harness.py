"""Problems of pages that the browser tests record."""

from tests.browser.conftest import OpenWindow
from tests.browser.window import Window

BLANK = "/pricing"


def show(window: Window, body: str) -> Window:
    window.open(BLANK)
    window.page.evaluate("(body) => { document.querySelector('main').innerHTML = body }", body)
    return window


def take_problems(window: Window) -> str:
    problems = " ".join(window.problems)
    window.problems.clear()
    return problems


def test_forbidden_behaviour_of_a_page_is_recorded(window: Window) -> None:
    show(window, '<h1>Here</h1><img src="/favicon.ico"><p>Text</p>')
    window.inspect()
    assert "image-alt (critical)" in take_problems(window)
    show(window, f"<h1>Here</h1><pre>{'wide' * 300}</pre>")
    window.page.evaluate("() => { document.querySelector('pre').style.overflow = 'visible' }")
    window.inspect()
    assert "scrolls sideways: " in take_problems(window)
    table = f'<table class="table"><caption>Rows</caption><tr><td class="num">{"wide" * 300}</table>'
    show(window, f'<h1>Here</h1><div class="panel">{table}</div>')
    window.check_width()
    assert "cuts off a table: Rows" in take_problems(window)
    show(window, '<h1>Here</h1><p style="color: red">Red</p>')
    assert "Content Security Policy" in take_problems(window)
    window.page.evaluate("() => console.error('broken')")
    assert "console: broken" in take_problems(window)
    window.page.goto("about:blank")
    window.page.evaluate("() => fetch('http://127.0.0.2:9/').catch(() => null)")
    assert "requested another host: http://127.0.0.2:9/" in take_problems(window)


_GROUNDS = """() => ["body", "#swagger-ui .swagger-ui"].map((selector) =>
  getComputedStyle(document.querySelector(selector)).backgroundColor).join(" ")"""


def test_api_reference_works_offline(open_window: OpenWindow) -> None:
    window = open_window()
    window.open("/docs/explorer")
    window.page.locator("#swagger-ui .opblock").first.wait_for()
    window.inspect()
    grounds = set()
    for theme in ("light", "dark"):
        window.theme(theme)
        window.check_accessibility()
        grounds.add(window.page.evaluate(_GROUNDS))
    assert len(grounds) == 2, "the explorer follows the theme of the system"
