"""A task that cannot become root: Ansible's messages, as seen with ansible-core 2.21, become one with a remedy."""

from __future__ import annotations

import pytest
from pipeline.hosts.root import root_failure


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            (
                "Task failed: Premature end of stream waiting for become success.\n>>> Standard Error\n"
                "sudo: a terminal is required to read the password\nsudo: a password is required"
            ),
            "sudo: a terminal is required to read the password | sudo: a password is required",
        ),
        (
            (
                "Task failed: Premature end of stream waiting for become success.\n>>> Standard Error\n"
                "/bin/sh: 1: sudo: not found"
            ),
            "/bin/sh: 1: sudo: not found",
        ),
        ("Task failed: Missing sudo password", "Task failed: Missing sudo password"),
        (
            "Task failed: Timeout (12s) waiting for privilege escalation prompt: ",
            "Task failed: Timeout (12s) waiting for privilege escalation prompt:",
        ),
    ],
)
def test_a_task_that_cannot_become_root_names_the_remedy(message: str, reason: str) -> None:
    assert root_failure(message, "v1", "the proof") == (
        f"this account cannot become root on v1, as the proof must: {reason}. Run again with -K (make: ARGS=-K), which"
        " asks for sudo's password; or let this account use sudo without one; or run as root"
    )


@pytest.mark.parametrize("message", ["only root can make the client. Run it as root, or with become: true", "no room"])
def test_another_failure_keeps_its_message(message: str) -> None:
    assert root_failure(message, "v1", "the proof") == message
