"""The checks of the signing keys, for the doctor and for status."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.text import day
from .keyring import SigningKey, judged, next_key, opened, parse_keys, present_key, short
from .rotation import DAY, describe
from .signer import Signer
from .trust import list_packets, list_public_keys

WARN_DAYS = 60
"""Before a key expires: the time of an overlap, and as long again to notice."""
_ROTATE = "Run rotate_key.yml"


@dataclass(frozen=True)
class KeyState(SigningKey):
    """A key and its state: it signs now, its secret is in the home, it is a trusted key."""

    signs_now: bool = False
    secret_here: bool = False
    trusted: bool = False


def key_states(signer: Signer, now: float) -> list[KeyState]:
    """Every key that is trusted or can sign on this host."""
    here: list[SigningKey] = []
    if signer.home.is_dir():
        with opened(signer.home) as keyring:
            here = keyring.signing_keys()
    trusted = trusted_signing_keys(signer.trusted_keys) if signer.trusted_keys.is_file() else []
    signing = present_key(here, now)
    known = {key.subkey: key for key in (*trusted, *here)}
    return [
        KeyState(
            **asdict(key),
            signs_now=key == signing,
            secret_here=key in here,
            trusted=subkey in [other.subkey for other in trusted],
        )
        for subkey, key in known.items()
    ]


def trusted_signing_keys(file: Path) -> list[SigningKey]:
    """The keys of the file that can sign, with their weaknesses."""
    return judged(parse_keys(list_public_keys(file)), list_packets(file))


def check_keys(keys: Sequence[KeyState], now: float) -> list[Finding]:
    """A valid key, trusted keys that include it, and no rotation that stopped halfway."""
    here = [key for key in keys if key.secret_here]
    signing, successor = present_key(here, now), next_key(keys, now)
    if signing is None:
        last = max(here, key=lambda key: key.expires, default=None)
        found = f"{short(last)} {last.flaw(now)}" if last and not last.lives(now) else "none"
        remedy = f"{_ROTATE}; docs/keys.md describes what clients see"
        return [Finding.bad("signing key", found, "one that can sign", remedy)]
    findings = [
        Finding.of(
            "signing key",
            f"{short(signing)}{f', until {day(signing.expires)}' if signing.expires else ''}",
            f"{WARN_DAYS} days more, or a successor",
            fits=not signing.expires or signing.expires >= now + WARN_DAYS * DAY or successor is not None,
            remedy=f"{_ROTATE} now: clients need the overlap to get the next key",
        )
    ]
    untrusted = [short(key) for key in here if key.lives(now) and not key.trusted]
    findings.append(
        Finding.of(
            "trusted keys",
            f"without {', '.join(untrusted)}" if untrusted else f"{len({key.fingerprint for key in keys})}",
            "with every key that signs",
            fits=not untrusted,
            remedy=f"{_ROTATE}: it adds them to signing_trusted_keys, to the site and to the repo host",
        )
    )
    if weak := [f"{short(key)}: {key.weakness}" for key in keys if key.weakness]:
        findings.append(
            Finding.bad(
                "strength of keys",
                "; ".join(weak),
                "keys that clients accept",
                "No client can import it. Replace it (rotate_key.yml), then retire it: -e signing_retire=FINGERPRINT",
            )
        )
    if successor:
        findings.append(
            Finding.of(
                "rotation",
                describe(signing, successor),
                "a day from which the next key signs",
                fits=successor.use_from is not None,
                remedy=f"{_ROTATE} again: an earlier run stopped before its end",
            )
        )
    return findings


def findings(signer: Signer, now: float | None = None) -> list[Finding]:
    """``check_keys`` of the signer's keys; an error is a finding too."""
    now = time.time() if now is None else now
    try:
        return check_keys(key_states(signer, now), now)
    except PipelineError as error:
        return [Finding.bad("signing key", error.what, "one that can sign", f"{error.where}: {error.remedy}")]
