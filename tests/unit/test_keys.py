"""Keys: gpg's listings, the key that signs, the sentence about a rotation."""

from __future__ import annotations

import pytest
from pipeline.base.errors import PipelineError
from pipeline.sign.keyring import SigningKey, next_key, parse_keys, present_key, whole_fingerprint
from pipeline.sign.rotation import describe

NOW = 1000


def key(name: str, created: int = 100, expires: int = 0, use_from: int | None = 0) -> SigningKey:
    return SigningKey(name * 40, f"{name}-sub", "Test", created, expires, use_from)


A, B = key("A"), key("B", 200)


@pytest.mark.parametrize(
    ("those", "signs", "waits"),
    [
        ([], "", ""),
        ([A], "A", ""),
        ([A, B], "B", ""),
        ([A, key("B", 200, use_from=None)], "A", "B"),
        ([A, key("B", 200, use_from=NOW + 1)], "A", "B"),
        ([A, key("B", 200, use_from=NOW)], "B", ""),
        # Made in the same second: the introduced one is the later one.
        ([key("A", use_from=100), key("B")], "A", ""),
        # The older key's day came later.
        ([key("A", use_from=500), B], "A", ""),
        ([A, key("B", 200, expires=NOW)], "A", ""),
        ([key("A", expires=NOW), key("B", 200, use_from=None)], "", "B"),
        ([key("A", expires=NOW)], "", ""),
    ],
)
def test_the_living_key_whose_time_came_last_signs(those: list[SigningKey], signs: str, waits: str) -> None:
    for order in (those, those[::-1]):
        signer, successor = present_key(order, NOW), next_key(order, NOW)
        assert (signer.fingerprint[:1] if signer else "") == signs
        assert (successor.fingerprint[:1] if successor else "") == waits


@pytest.mark.parametrize(
    ("signing", "successor", "text"),
    [
        (None, None, "no key signs"),
        (A, None, "key AAAAAAAAAAAAAAAA signs"),
        (key("A", use_from=86400), None, "key AAAAAAAAAAAAAAAA signs since 1970-01-02"),
        (
            A,
            key("B", use_from=None),
            "key AAAAAAAAAAAAAAAA signs; key BBBBBBBBBBBBBBBB is being distributed to the clients",
        ),
        (A, key("B", use_from=86400), "key AAAAAAAAAAAAAAAA signs until 1970-01-02, then key BBBBBBBBBBBBBBBB"),
    ],
)
def test_the_state_of_a_rotation_is_one_sentence(
    signing: SigningKey | None, successor: SigningKey | None, text: str
) -> None:
    assert describe(signing, successor) == text


@pytest.mark.parametrize("text", ["ab" * 20, " ".join(["ABAB"] * 10), "AB" * 20])
def test_a_fingerprint_is_accepted_as_gpg_shows_it(text: str) -> None:
    assert whole_fingerprint(text) == "AB" * 20


@pytest.mark.parametrize("text", ["", "ABABABABABABABAB", "0x" + "AB" * 20, "AB" * 21])
def test_a_part_of_a_fingerprint_names_no_key(text: str) -> None:
    with pytest.raises(PipelineError, match="this is not a whole fingerprint"):
        whole_fingerprint(text)


def test_a_listing_is_read_as_gpg_writes_it() -> None:
    listing = (
        "sec:u:4096:1:AAAA:100:900:::u:::scSC:::#:::23::0:\nfpr:::::::::P1:\ngrp:::::::::G:\n"
        "uid:u::::100::H::Test\\x3a one <a@b>::::::::::0:\n"
        "ssb:u:4096:1:BBBB:200:500:::::s:::+:::23:\nfpr:::::::::S1:\n"
        "ssb:r:4096:1:CCCC:200::::::s:::+:::23:\nfpr:::::::::S2:\n"
        "ssb:u:4096:1:DDDD:200::::::e:::+:::23:\nfpr:::::::::S3:\n"
        "sec:r:4096:1:EEEE:100:::::::sc:::+:::23::0:\nfpr:::::::::P2:\n"
        "pub:-:4096:1:FFFF:300:::-:::scSC:::::::0:\nfpr:::::::::P3:\nuid:-::::300::H::Two::::::::::0:\n"
    )
    assert parse_keys(listing) == [
        SigningKey("P1", "S1", "Test: one <a@b>", 200, 500),
        SigningKey("P3", "P3", "Two", 300, 0),
    ]
