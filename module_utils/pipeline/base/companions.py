"""What a package contains beside the binary, and how large each may be: upstream's licence and its chat templates.

A builder takes over no more than the signer accepts, so that a commit with other files fails where it is built.
"""

from __future__ import annotations

import re

LICENCE, TEMPLATES = "LICENSE", "chat_templates"
MIB = 1 << 20
LARGEST_BINARY = 2048 * MIB
LARGEST_COMPANION = MIB
MOST_TEMPLATES = 500
_PART = r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,100}"
TEMPLATE_NAME = re.compile(rf"{TEMPLATES}(?:/{_PART}){{1,5}}")
