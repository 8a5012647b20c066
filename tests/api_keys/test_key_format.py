"""The text of key secrets."""

import pytest

from saas_api.api_keys import key_format


@pytest.mark.parametrize("mode", ["live", "test"])
def test_generated_secret_is_well_formed(mode: str) -> None:
    key = key_format.generate_key("sk", mode)
    assert key.startswith(f"sk_{mode}_")
    assert len(key) == len(f"sk_{mode}_") + 46
    assert key_format.is_well_formed_key(key, "sk")
    assert key_format.has_key_prefix(key)
    assert key_format.key_hint(key) == key[: len(f"sk_{mode}_") + 4]


def test_secret_with_another_prefix_is_malformed() -> None:
    assert not key_format.is_well_formed_key(key_format.generate_key("pk", "live"), "sk")


def test_secret_with_one_wrong_character_is_malformed() -> None:
    key = key_format.generate_key("sk", "live")
    for at in range(len("sk_live_"), len(key)):
        wrong = "0" if key[at] != "0" else "1"
        assert not key_format.is_well_formed_key(key[:at] + wrong + key[at + 1 :], "sk")


def test_access_token_has_no_key_prefix() -> None:
    assert not key_format.has_key_prefix("eyJh.eyJz.c2ln")
