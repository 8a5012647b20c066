"""Colours of sRGB as "#rrggbb": contrast as WCAG 2.2 defines it, and mixtures."""

import re

_HEX = re.compile(r"#[0-9a-f]{6}")
_LINEAR_BELOW = 0.04045
_WEIGHTS = (0.2126, 0.7152, 0.0722)


def is_color(text: str) -> bool:
    """Whether a text is a colour such as "#4338ca", in lower case."""
    return _HEX.fullmatch(text) is not None


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, from 1 to 21."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def mix(color: str, other: str, share: float) -> str:
    """A mixture of two colours.

    share: of the second one, from 0 to 1
    """
    pairs = zip(_channels(color), _channels(other), strict=True)
    return "#" + "".join(f"{round(first + (second - first) * share):02x}" for first, second in pairs)


def _channels(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))


def _luminance(color: str) -> float:
    return sum(weight * _linear(value / 255) for weight, value in zip(_WEIGHTS, _channels(color), strict=True))


def _linear(value: float) -> float:
    return value / 12.92 if value <= _LINEAR_BELOW else ((value + 0.055) / 1.055) ** 2.4
