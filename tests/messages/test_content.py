"""Segments and recipients of messages, and the delays of retries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saas_api.core.jobs import retries
from saas_api.messages import content


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("a", 1),
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("ж" * 70, 1),
        ("ж" * 71, 2),
        ("ж" * 134, 2),
        ("ж" * 135, 3),
        ("😀" * 35, 1),
        ("😀" * 36, 2),
        ("a" * 69 + "ж", 1),
        ("ñ@£Δ\n" * 32, 1),
    ],
)
def test_segments_depend_on_the_alphabet_of_the_text(text: str, segments: int) -> None:
    assert content.count_segments(text) == segments


@given(st.text(min_size=1, max_size=1600))
def test_longer_text_never_has_fewer_segments(text: str) -> None:
    assert 1 <= content.count_segments(text) <= content.count_segments(text + text[-1])


@pytest.mark.parametrize(
    ("text", "segments"),
    [("a" * 152 + "€" + "a" * 10, 2), ("a" * 152 + "€" * 77, 3), ("ж" * 66 + "😀" + "ж" * 66, 3)],
)
def test_character_of_two_units_is_not_split_between_segments(text: str, segments: int) -> None:
    assert content.count_segments(text) == segments


@pytest.mark.parametrize("number", ["+15005550001", "+2348012345678", "+442071838750"])
def test_number_in_e164_form_is_valid(number: str) -> None:
    assert content.parse_phone_number(number) == number


@pytest.mark.parametrize("number", ["", "+", "+0", "2348012345678", "+2348", "+23480123456789012", "+٢٣٤٨٠١٢٣٤٥٦٧٨"])
def test_text_that_is_no_number_is_rejected(number: str) -> None:
    with pytest.raises(ValueError, match=r"Not a"):
        content.parse_phone_number(number)


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 5), (2, 30), (7, 7200), (9, 7200)])
def test_retry_delay_varies_by_a_fifth(attempt: int, seconds: int) -> None:
    assert 0.8 * seconds <= retries.retry_delay(attempt, None).total_seconds() <= 1.2 * seconds


@pytest.mark.parametrize(("requested_seconds", "delay_seconds"), [(5, 5), (0, 1), (999_999, 3600)])
def test_delay_from_the_provider_is_honoured_up_to_an_hour(requested_seconds: int, delay_seconds: int) -> None:
    assert retries.retry_delay(1, requested_seconds).total_seconds() == delay_seconds


@given(st.text(max_size=200))
def test_replacement_of_typographic_characters_is_final(text: str) -> None:
    replaced = content.replace_typographic_characters(text)
    assert content.replace_typographic_characters(replaced) == replaced


def test_every_replacement_is_in_the_gsm_alphabet() -> None:
    typographic = "".join(map(chr, content._TYPOGRAPHIC))
    assert content.find_non_gsm_character(content.replace_typographic_characters(typographic)) is None
