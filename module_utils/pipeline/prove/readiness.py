"""Whether a host can prove: the proof's own client is made, without a repository, and its programs are looked for."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

from ..base.errors import PipelineError
from ..base.findings import Finding
from .dnf_client import find_program
from .sandbox import Client
from .transcript import Transcript

PROGRAMS = ("rpm", "rpmbuild", "gpg", "getent", "readlink")
"""What the proof runs in the client, or beside it, besides dnf."""

INSTALL = "playbooks/verifiers.yml installs it, and make setup on this machine"


def client_finding(system: Path, program: str = "") -> Finding:
    """Whether a throw-away copy of ``system`` starts, and has dnf and the other programs."""
    check, needed = "throw-away client", "a client with dnf and rpmbuild, as root"
    try:
        dnf = find_program(program, str(system))
        with (
            tempfile.TemporaryDirectory() as folder,
            closing(Transcript(Path(folder) / "log")) as transcript,
            Client(transcript, (), system) as client,
        ):
            output = client.run(
                "sh", "-c", 'for name; do command -v "$name" >/dev/null || echo "$name"; done', "sh", *PROGRAMS
            )[1]
    except PipelineError as error:
        return Finding.bad(check, error.what, needed, error.remedy or INSTALL)
    if lacking := [name for name in output.split() if name in PROGRAMS]:
        return Finding.bad(check, f"no {', '.join(lacking)}", needed, INSTALL)
    return Finding.ok(check, f"a client with {dnf}", needed)
