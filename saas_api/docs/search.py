"""Search in the portal: sections of guides, error codes and operations, by words. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

MAX_RESULTS = 20
MAX_QUERY_LENGTH = 100
MAX_WORDS = 8
_EXCERPT_LENGTH = 160
_WORD = re.compile(r"[\w/{}-]+")
_TITLE_WEIGHT, _WHOLE_TITLE_WEIGHT = 10, 100


@dataclass(frozen=True)
class Entry:
    """Something that can be found.

    kind: what it is, such as "Guide"
    text: in which the words may also be; without markup
    """

    href: str
    title: str
    kind: str
    text: str


@dataclass(frozen=True)
class Result:
    """An entry that has every word.

    excerpt: of its text, around the first word found
    """

    entry: Entry
    excerpt: Markup


class Index:
    """Entries to search in."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = [(entry, entry.title.lower(), entry.text.lower()) for entry in entries]

    def search(self, query: str) -> Sequence[Result]:
        """Entries with every word of a query, or words that begin with it, best first; at most MAX_RESULTS."""
        words = [word.lower() for word in _WORD.findall(query[:MAX_QUERY_LENGTH])][:MAX_WORDS]
        found = []
        for place, (entry, title, text) in enumerate(self._entries if words else []):
            if not all(word in title or word in text for word in words):
                continue
            scores = [_score(word, title, text) for word in words]
            if all(scores):
                is_whole = title == " ".join(words)
                found.append((-sum(scores) - is_whole * _WHOLE_TITLE_WEIGHT, place, entry))
        return [Result(entry, _excerpt(entry.text, words)) for _, _, entry in sorted(found)[:MAX_RESULTS]]


def _score(word: str, title: str, text: str) -> int:
    """How well a word fits; 0 when it is in neither text."""
    starts = _pattern(word)
    return _TITLE_WEIGHT * bool(starts.search(title)) + bool(starts.search(text))


def _pattern(*words: str) -> re.Pattern[str]:
    """Beginnings of words; a path may also begin inside of a longer one."""
    parts = [("" if word.startswith("/") else "(?<![a-zA-Z0-9])") + re.escape(word) for word in words]
    return re.compile("|".join(parts), re.IGNORECASE)


def _excerpt(text: str, words: Sequence[str]) -> Markup:
    pattern = _pattern(*words)
    match = pattern.search(text)
    start = max(0, match.start() - _EXCERPT_LENGTH // 3) if match else 0
    start = text.rfind(" ", 0, start) + 1 if start else 0
    cut = text[start : start + _EXCERPT_LENGTH]
    marked, position = Markup("…") if start else Markup(""), 0
    for found in pattern.finditer(cut):
        marked += escape(cut[position : found.start()]) + Markup("<mark>{}</mark>").format(found[0])
        position = found.end()
    return marked + escape(cut[position:]) + ("…" if len(text) > start + _EXCERPT_LENGTH else "")
