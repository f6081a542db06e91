"""What an operator does after a publication: the commands are those of the user's page, the fingerprints are both."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline.channel.announcement import commands, fingerprints
from pipeline.sign.keyring import SigningKey

USER = (Path(__file__).resolve().parents[2] / "docs/user.md").read_text()
KEY = SigningKey("A" * 40, "0123456789ABCDEF" * 2 + "01234567", "x <x@y>", 1, 1795651200)


def test_the_commands_are_those_of_the_users_page():
    lines = commands("https://rpm.example.org", "stable", "mistralrs.repo", ["mistralrs-ada", "mistralrs-cpu"])
    assert lines[0].startswith("  install    curl ")
    for line in lines:
        command = line.removeprefix("  install").strip().partition("   #")[0]
        assert command.replace("https://rpm.example.org", "URL").replace("dnf5", "dnf") in USER
    assert lines[-1].endswith("sudo dnf5 install mistralrs-ada")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8717", "http://localhost:8717"])
def test_a_site_of_this_machine_is_served_first(url):
    assert commands(url, "stable", "mistralrs.repo", [])[0] == "  serve      make serve PORT=8717"


def test_a_channel_that_clients_do_not_enable_is_named():
    lines = commands("https://rpm.example.org", "unstable", "mistralrs-unstable.repo", ["mistralrs-ada"])
    assert lines[-1].endswith("sudo dnf5 install --enablerepo=mistralrs-unstable mistralrs-ada")


def test_the_fingerprint_of_the_primary_key_is_announced_and_that_of_the_subkey_is_what_dnf_shows():
    assert fingerprints([KEY]) == [
        "  announce   " + " ".join(["AAAA"] * 10) + ", until 2026-11-26",
        "  dnf shows  0123 4567 89AB CDEF 0123 4567 89AB CDEF 0123 4567, its subkey",
    ]
