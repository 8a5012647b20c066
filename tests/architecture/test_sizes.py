"""Sizes of files and functions. Migrations are left out: each holds its part of the schema in one piece."""

import ast

from tests.architecture.source import PACKAGE, ROOT, functions, sources

CLIENT = ROOT / "clients" / "python"
CHECKED = [*sources(PACKAGE, ROOT / "tests", CLIENT, ROOT / "examples"), ROOT / "config.py", ROOT / "wsgi.py"]


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, the docstring left out."""
    first = node.body[0]
    docstring = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) else 0
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


def test_file_has_at_most_600_lines() -> None:
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in CHECKED}
    assert not {path: size for path, size in sizes.items() if size > 600}


def test_function_has_at_most_40_lines() -> None:
    sizes = [(lines(node), node.name, str(path)) for path in CHECKED for node in functions(path)]
    assert not [size for size in sizes if size[0] > 40]


def test_function_has_at_most_7_parameters() -> None:
    wide = []
    for path in sources():
        for node in functions(path):
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            if len([name for name in names if name not in {"self", "cls"}]) > 7:
                wide.append((str(path.relative_to(ROOT)), node.name))
    assert not wide
