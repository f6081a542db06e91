"""Why a task that becomes root failed: Ansible's words, and what an operator does about them."""

from __future__ import annotations

import re

from ..base.text import last_words

# Ansible-core 2.21: plugins/connection/{local,ssh}.py and plugins/become.
_BECOMING = re.compile(
    r"become success|(missing|incorrect) \S+ password|privilege escalation|become password", re.IGNORECASE
)


def root_failure(message: str, host: str, purpose: str) -> str:
    """The message for a person: about root where becoming it failed, else ``message`` itself.

    ``purpose`` ends "as ... must".
    """
    if not _BECOMING.search(message):
        return message
    reason = last_words(message.partition(">>> Standard Error")[2] or message, 2)
    return (
        f"this account cannot become root on {host}, as {purpose} must: {reason}. Run again with -K (make: ARGS=-K),"
        " which asks for sudo's password; or let this account use sudo without one; or run as root"
    )
