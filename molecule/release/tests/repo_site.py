"""A host's site from the controller, which is a client."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

STABLE = "/fedora/43/x86_64"
ROOT = "/srv/rpm"
ACCOUNT = "gitea_ci"
# A snapshot as the agent lays it out, for the host that nobody publishes to.
LAY_OUT = f"""
set -e; cd {ROOT}{STABLE}; id=20260101T000000Z-00000000; mkdir -p Packages snapshots/$id/repodata
echo rpm > Packages/mistralrs-release-43-1.noarch.rpm
hash=$(printf '%064d' 0)
for name in repomd.xml repomd.xml.asc $hash-primary.xml.gz; do echo $name > snapshots/$id/repodata/$name; done
ln -sfn ../../Packages snapshots/$id/Packages; ln -sfn snapshots/$id/repodata repodata
echo "$1{STABLE}/snapshots/$id/" > mirrorlist
"""


@dataclass(frozen=True)
class Answer:
    status: int
    version: str
    headers: dict[str, list[str]]
    body: str


@dataclass(frozen=True)
class Site:
    """The site of a host; its name is resolved here, since the controller does not use the test hosts' DNS."""

    name: str
    address: str
    bundle: Path

    @property
    def url(self) -> str:
        return f"https://{self.name}"

    def curl(self, *words: str) -> subprocess.CompletedProcess[str]:
        places = [word for port in (80, 443) for word in ("--resolve", f"{self.name}:{port}:{self.address}")]
        usual = ["curl", "--silent", "--noproxy", "*", "--max-time", "60", "--cacert", self.bundle, *places]
        return subprocess.run([*usual, *words], capture_output=True, text=True, errors="replace", check=False)

    def get(self, where: str, *words: str) -> Answer:
        """The answer for a path or a URL; fails without one."""
        url = where if "://" in where else self.url + where
        asked = ["--write-out", "%{stderr}%{header_json}\n%{http_code} %{http_version}", "--path-as-is"]
        done = self.curl(*asked, *words, url)
        assert done.returncode == 0, (done.returncode, done.stderr)
        headers, _, last = done.stderr.rpartition("\n")
        status, version = last.split()
        return Answer(int(status), version, json.loads(headers), done.stdout)
