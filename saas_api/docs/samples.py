"""Requests as code that runs: curl, Python and JavaScript. Pure."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

KEY, TOKEN, SERVICE_TOKEN = "YOUR_API_KEY", "YOUR_ACCESS_TOKEN", "YOUR_SERVICE_TOKEN"
"""Placeholders of credentials. A page may show a key of its reader in place of the first."""
LANGUAGES = {"curl": "curl", "python": "Python", "javascript": "JavaScript"}
_ONE_LINE = 80
_VARIABLE = re.compile(r"\$([A-Z_]+)")
_IGNORED_OPTIONS = frozenset(("-s", "-sS"))


@dataclass(frozen=True)
class Request:
    """A request with a JSON body, or with none.

    url: absolute, with its query
    body: JSON-ready; None for no body
    file: where the answer is kept if it is a file and not JSON; "" for JSON
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    file: str = ""


def parse_curl(command: str, variables: Mapping[str, str]) -> Request | None:
    """The request of a shell text that is one call of curl; None for any other text.

    variables: values of the shell's variables; any other stands for itself, without the `$`
    """
    try:
        words = shlex.split(command.replace("\\\n", " "))
    except ValueError:
        return None
    if words[:1] != ["curl"]:
        return None
    request, options = Request("", ""), iter(words[1:])
    for word in options:
        changed = _apply_option(request, word, options)
        if changed is None:
            return None
        request = changed
    method = request.method or ("GET" if request.body is None else "POST")
    filled = {name: _fill(value, variables) for name, value in request.headers.items() if name != "Content-Type"}
    return replace(request, method=method, url=_fill(request.url, variables), headers=filled)


def _apply_option(request: Request, word: str, rest: Any) -> Request | None:
    if word in _IGNORED_OPTIONS:
        return request
    if word == "-X":
        return replace(request, method=next(rest))
    if word == "-H":
        name, _, value = next(rest).partition(": ")
        return replace(request, headers={**request.headers, name: value})
    if word == "-d":
        return replace(request, body=json.loads(next(rest)))
    if word == "-o":
        return replace(request, file=next(rest))
    return None if word.startswith("-") or request.url else replace(request, url=word)


def _fill(text: str, variables: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: variables.get(match[1], match[1]), text)


def render_call(method: str, url: str, body: Any, key: str, language: str) -> str:
    """A call with an API key, as code.

    body: JSON-ready; None for no body
    language: a name of LANGUAGES
    """
    return render(Request(method, url, {"X-API-Key": key}, body), language)


def render(request: Request, language: str) -> str:
    """The request as code.

    language: a name of LANGUAGES
    """
    return {"curl": _curl, "python": _python, "javascript": _javascript}[language](request)


def _curl(request: Request) -> str:
    lines = [f'curl "{request.url}"' if re.search(r"[?&]", request.url) else f"curl {request.url}"]
    if request.method != ("GET" if request.body is None else "POST"):
        lines[0] = lines[0].replace("curl ", f"curl -X {request.method} ", 1)
    lines += [f'  -H "{name}: {value}"' for name, value in _all_headers(request).items()]
    if request.body is not None:
        text = _literal(request.body, "json", 2).replace("'", "'\\''")
        lines.append(f"  -d '{text}'")
    if request.file:
        lines.append(f"  -o {request.file}")
    return " \\\n".join(lines)


def _all_headers(request: Request) -> dict[str, str]:
    json_header = {} if request.body is None else {"Content-Type": "application/json"}
    return {**request.headers, **json_header}


def _python(request: Request) -> str:
    arguments = [f"    {json.dumps(request.url)},"]
    if request.headers:
        arguments.append(f"    headers={_literal(request.headers, 'python', 4)},")
    if request.body is not None:
        arguments.append(f"    json={_literal(request.body, 'python', 4)},")
    call = f"requests.{request.method.lower()}"
    end = ["print(response.json())"]
    if request.file:
        end = [f'with open("{request.file}", "wb") as file:', "    file.write(response.content)"]
    return "\n".join(["import requests", "", f"response = {call}(", *arguments, ")", *end])


def _javascript(request: Request) -> str:
    options = [] if request.method == "GET" else [f'  method: "{request.method}",']
    if headers := _all_headers(request):
        options.append(f"  headers: {_literal(headers, 'javascript', 2)},")
    if request.body is not None:
        options.append(f"  body: JSON.stringify({_literal(request.body, 'javascript', 2)}),")
    address = json.dumps(request.url)
    call = (
        [f"const response = await fetch({address}, {{", *options, "});"]
        if options
        else [f"const response = await fetch({address});"]
    )
    end = ["console.log(await response.json());"]
    if request.file:
        call.insert(0, 'import { writeFile } from "node:fs/promises";\n')
        end = [f'await writeFile("{request.file}", Buffer.from(await response.arrayBuffer()));']
    return "\n".join([*call, *end])


def _literal(value: Any, language: str, indent: int) -> str:
    """A JSON-ready value as a literal: on one line where it is short.

    indent: spaces before the line on which it begins; those inside have as many more as a level has
    """
    short = _one_line(value, language)
    if len(short) + indent <= _ONE_LINE or not isinstance(value, dict | list) or not value:
        return short
    step = 4 if language == "python" else 2
    inner = " " * (indent + step)
    if isinstance(value, dict):
        items = [f"{_name(name, language)}: {_literal(item, language, indent + step)}" for name, item in value.items()]
    else:
        items = [_literal(item, language, indent + step) for item in value]
    comma = "" if language == "json" else ","
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(items) + f"{comma}\n{' ' * indent}{closing}"


def _one_line(value: Any, language: str) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_name(n, language)}: {_one_line(item, language)}" for n, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_one_line(item, language) for item in value) + "]"
    if language == "python" and (value is None or isinstance(value, bool)):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def _name(name: str, language: str) -> str:
    return name if language == "javascript" and name.isidentifier() else json.dumps(name)
