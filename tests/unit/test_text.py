"""Text that several rooms write in the same way."""

import re

import pytest
from pipeline.base.text import SNAPSHOT_ID, ago, day, last_words, moment, size, without_account


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("", "no output"),
        ("\n  \n", "no output"),
        ("one\n\n  two\n", "one | two"),
        ("one\ntwo\nthree\nfour\n", "two | three | four"),
    ],
)
def test_the_end_of_an_output_is_one_line(output: str, words: str) -> None:
    assert last_words(output) == words


def test_an_account_never_shows():
    text = "cannot read https://me:secret@host/a@b and redis://:word@cache:6379"
    assert without_account(text) == "cannot read https://host/a@b and redis://cache:6379"


def test_times_and_sizes():
    assert (day(1787409493), moment(1787409493)) == ("2026-08-22", "2026-08-22 14:38:13")
    assert [ago(s) for s in (-1, 119, 300, 3 * 3600, 12 * 86400)] == [
        "0 s ago",
        "119 s ago",
        "5 min ago",
        "3 h ago",
        "12 days ago",
    ]
    assert (size(2e5), size(1.34e9)) == ("0.2 MB", "1.3 GB")


def test_a_snapshot_id():
    assert re.fullmatch(SNAPSHOT_ID, "20260822T143813Z-0123abcd")
    assert not re.fullmatch(SNAPSHOT_ID, "20260822T143813Z-0123ABCD")
