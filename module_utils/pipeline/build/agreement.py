"""Agreement: builders that built the same flavour must have built the same bytes.

Rules:

1. Each builder hands over, beside its artifact, the digests of its units and their dependencies (``units_of``). They
   only explain a difference: the signer compares the bytes that it has.
2. All files that a package holds are compared, not the binary alone.
3. A difference names the files, and the crates whose own code differs. Where none does, it names the sections of the
   binary, and crates by the paths in its strings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import PipelineError
from ..base.records import Artifact
from .reproduce import (
    SHOWN,
    crate_names,
    crates_named,
    dependencies,
    differing_crates,
    differing_sections,
    differing_strings,
    is_of,
    units,
)


@dataclass(frozen=True)
class Built:
    """One builder's build: the digests of its files by name, its binary, and the file of ``units_of``."""

    builder: str
    files: Mapping[str, str]
    binary: Path
    units: Path

    @property
    def short(self) -> str:
        """The binary's digest, for a person."""
        return next((digest[:16] for name, digest in self.files.items() if name == self.binary.name), "none")


def units_of(artifact: Artifact) -> str:
    """The units of the target directory that the artifact was built in, as JSON; "" if it holds another build now."""
    target = Path(artifact.folder).parents[2] / "target"
    if not is_of(target, artifact):
        return ""
    uses = {name: sorted(some) for name, some in dependencies(target).items()}
    return json.dumps({"units": units(target), "uses": uses, "names": crate_names(target)}, sort_keys=True)


def agreed(built: Sequence[Built], needed: int, flavour: str) -> str:
    """A line with each builder's digest; PipelineError unless ``needed`` builders built the same bytes and none others.

    With ``needed`` 1 there is nothing to compare, and the line is empty.
    """
    if needed < 2 and built:
        return ""
    if len({one.builder for one in built}) < needed:
        raise PipelineError(
            f"{needed} builders must agree about {flavour}, and only {len(built)} handed it over: "
            f"{', '.join(one.builder for one in built) or 'none'}",
            "agreement",
            "Run again when enough builders answer, or set agreement: 1",
        )
    first = built[0]
    line = ", ".join(f"{one.builder} {one.short}" for one in built)
    for other in built[1:]:
        if first.files != other.files:
            raise PipelineError(
                f"builders disagree about {flavour}: {line}; {difference(first, other)}",
                "agreement",
                "Nothing of it was packaged or signed. make reproduce finds out whether one builder makes the same "
                "bytes twice. Else the builders' toolchains or caches differ, or one of them was tampered with",
            )
    return line


def difference(first: Built, second: Built) -> str:
    """What differs between two builds, in one line."""
    names = sorted(name for name in {**first.files, **second.files} if first.files.get(name) != second.files.get(name))
    line = f"{', '.join(names[:SHOWN])} {'differs' if len(names) == 1 else 'differ'}"
    if first.binary.name not in names:
        return line
    ours, theirs = _read(first.units), _read(second.units)
    crates = []
    if ours and theirs:
        crates = differing_crates(ours["units"], theirs["units"], theirs["uses"], theirs["names"])
    crates = crates or crates_named(differing_strings(first.binary, second.binary))
    if crates:
        return f"{line}, caused by {', '.join(crates[:SHOWN])}"
    sections = differing_sections(first.binary, second.binary)
    return f"{line} in {', '.join(sections)}" if sections else line


def _read(path: Path) -> dict[str, Any]:
    """The file of ``units_of``. A builder wrote it: what has another form explains nothing."""
    try:
        data = json.loads(path.read_bytes())
        units_, uses, names = (data[key] for key in ("units", "uses", "names"))
        fits = all(isinstance(part, dict) for part in (units_, uses, names))
        fits = fits and all(isinstance(text, str) for part in (units_, names) for text in part.values())
        fits = fits and all(isinstance(name, str) for some in uses.values() for name in some)
        return data if fits and all(name.isprintable() for name in names.values()) else {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
