"""The signer: where its files are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Signer:
    """The signer's folder ``root``, its GnuPG ``home``, the passphrase's file and the file of the trusted keys.

    ``passphrase_file`` is None where the keys have no passphrase. ``accept_head`` are heads that the operator accepts
    although they contradict the signer's memory, see ``channel.heads``.
    """

    root: Path
    home: Path
    passphrase_file: Path | None
    trusted_keys: Path
    accept_head: tuple[str, ...] = ()

    @classmethod
    def of(cls, option: Mapping[str, Any]) -> Self:
        """The signer of a module's option ``signer``."""
        return cls(
            root=Path(option["root"]),
            home=Path(option["home"]),
            passphrase_file=Path(option["passphrase_file"]) if option.get("passphrase_file") else None,
            trusted_keys=Path(option["trusted_keys"]),
            accept_head=tuple(str(head).strip() for head in option.get("accept_head") or ()),
        )
