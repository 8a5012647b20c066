"""The tests' own eyes: what a page may not do is seen."""

from tests.browser.conftest import Visits
from tests.browser.visitor import Visitor

BLANK = "/pricing"


def look(visitor: Visitor, body: str) -> Visitor:
    visitor.open(BLANK)
    visitor.page.evaluate("(body) => { document.querySelector('main').innerHTML = body }", body)
    return visitor


def found(visitor: Visitor) -> str:
    seen = " ".join(visitor.problems)
    visitor.problems.clear()
    return seen


def test_forbidden_behaviour_of_a_page_is_recorded(visitor: Visitor) -> None:
    look(visitor, '<h1>Here</h1><img src="/favicon.ico"><p>Text</p>')
    visitor.inspect()
    assert "image-alt (critical)" in found(visitor)
    look(visitor, f"<h1>Here</h1><pre>{'wide' * 300}</pre>")
    visitor.page.evaluate("() => { document.querySelector('pre').style.overflow = 'visible' }")
    visitor.inspect()
    assert "scrolls sideways: " in found(visitor)
    look(visitor, '<h1>Here</h1><p style="color: red">Red</p>')
    assert "Content Security Policy" in found(visitor)
    visitor.page.evaluate("() => console.error('broken')")
    assert "console: broken" in found(visitor)
    visitor.page.goto("about:blank")
    visitor.page.evaluate("() => fetch('http://127.0.0.2:9/').catch(() => null)")
    assert "asked another host: http://127.0.0.2:9/" in found(visitor)


def test_api_reference_works_offline(visit: Visits) -> None:
    visitor = visit()
    visitor.open("/docs/")
    visitor.page.locator("#swagger-ui .opblock").first.wait_for()
    visitor.inspect()
