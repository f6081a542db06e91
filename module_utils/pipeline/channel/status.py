"""Status: the contents and faults of a repository.

Rules:

1. The repository as clients read it and the agent's answer are checked independently; a difference is a finding. So is
   a part that does not answer, which does not hide the others.
2. A finding that does not fit fails the run. Pending work (a staged snapshot, a file that prune will delete) is shown
   and is no finding.
3. Read-only.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.records import Package, Record
from ..base.text import ago, moment, size
from ..base.versions import by_build
from ..sign import clocks
from .heads import HeadRefused
from .hold import Hold
from .reader import Published, State
from .wording import changes

GB = 10**9
COMPARED = 2 * 86400  # seconds; the repo host compares its certificate twice a day
ROOM = 3  # times the largest package: a release has one for each flavour


@dataclass(frozen=True)
class Status(Record):
    """A repository: its findings, its packages, and the agent's answer (``host``, empty without one).

    ``hold`` is that of its signer, empty without one.
    """

    channel: str
    head: str
    findings: tuple[Finding, ...]
    packages: tuple[Package, ...]
    host: dict[str, Any]
    hold: dict[str, Any] = field(default_factory=dict)


def status_of(
    channel: str,
    published: Published | PipelineError,
    host: Mapping[str, Any] | PipelineError,
    keys: Iterable[Finding],
    deep: Mapping[str, Any] | PipelineError | None = None,
    known: State | PipelineError | None = None,
    hold: Hold | PipelineError | None = None,
    now: float | None = None,
) -> Status:
    """The status from reading the repository, from the agent and from the keys; each may be an error instead.

    ``deep`` is the agent's answer to ``verify``, None unless requested. ``known`` is the head, compared with the
    signer's memory. ``now`` is in seconds since 1970, by default this moment.
    """
    findings = [check_signed(published)]
    packages: tuple[Package, ...] = () if isinstance(published, PipelineError) else published.packages
    if isinstance(known, (State, HeadRefused)):
        findings.append(check_known(known, packages))
    if isinstance(host, PipelineError):
        findings.append(Finding.bad("agent", host.what, "an answer", f"{host.where}: {host.remedy}"))
        host = {}
    else:
        if not isinstance(published, PipelineError):
            findings.append(check_head(published.head, str(host["snapshot"])))
        findings += [check_pool(host["missing"]), check_room(int(host["room"]), packages), clocks.check(host["ahead"])]
        if certificate := host.get("certificate"):
            findings.append(check_served(certificate, time.time() if now is None else now))
    if isinstance(deep, PipelineError):
        findings.append(Finding.bad("every byte", deep.what, "verified", f"{deep.where}: {deep.remedy}"))
    elif deep is not None:
        findings.append(check_bytes(deep))
    head = str(host.get("snapshot", "")) or ("" if isinstance(published, PipelineError) else published.head)
    why = {"reason": str(hold)} if isinstance(hold, PipelineError) else hold.to_dict() if hold else {}
    return Status(channel, head, (*findings, *keys), packages, dict(host), why)


def check_signed(published: Published | PipelineError) -> Finding:
    if isinstance(published, PipelineError):
        return Finding.bad("signature", published.what, "by a trusted key", f"{published.where}: {published.remedy}")
    return Finding.ok("signature", "by a trusted key" if published.head else "nothing published", "by a trusted key")


def check_known(known: State | HeadRefused, packages: Iterable[Package]) -> Finding:
    """The head is what the signer knows, or descends from it, and has no package of a yank that it lacks."""
    check, needed = "known head", "what this signer knows"
    if isinstance(known, HeadRefused):
        return Finding.bad(check, known.what, needed, f"{known.where}: {known.remedy}")
    back = sorted({package.filename for package in packages} & set(known.owed))
    remedy = "Run prune.yml: the next snapshot yanks them again"
    return Finding.of(
        check, f"yanked packages: {', '.join(back)}" if back else needed, needed, fits=not back, remedy=remedy
    )


def check_head(seen: str, head: str) -> Finding:
    return Finding.of(
        "what clients see",
        seen or "nothing",
        head or "nothing",
        fits=seen == head,
        remedy="Check the way from the agent's folder to the address that clients use: another root, a cache",
    )


def check_pool(missing: Sequence[str]) -> Finding:
    return Finding.of(
        "pool",
        f"without {', '.join(missing[:5])}" if missing else "complete",
        "complete",
        fits=not missing,
        remedy="Somebody removed files by hand: restore them from a backup, or yank them",
    )


def check_room(room: int, packages: Iterable[Package]) -> Finding:
    needed = ROOM * max((package.size for package in packages), default=0)
    return Finding.of(
        "room on the repo host",
        f"{room / GB:.1f} GB",
        f"> {needed / GB:.1f} GB",
        fits=room > needed,
        remedy="Run prune.yml, or give the repo host more disk",
    )


def check_served(certificate: Mapping[str, Any], now: float) -> Finding:
    """The repo host's own comparison of the certificate that it serves with the one on its disk."""
    check, needed = "certificate in use", "the one on the repo host's disk"
    journal = "journalctl -u mistralrs-certificate-served"
    if fault := str(certificate["fault"]):
        remedy = f"On the repo host: nginx -t, then systemctl start mistralrs-certificate-served; {journal}"
        return Finding.bad(check, fault, needed, remedy)
    if (age := now - float(certificate["time"])) > COMPARED:
        remedy = f"On the repo host: systemctl enable --now mistralrs-certificate.timer; {journal}"
        return Finding.bad(check, f"last compared {ago(age)}", "within 2 days", remedy)
    return Finding.ok(check, needed, needed)


def check_bytes(deep: Mapping[str, Any]) -> Finding:
    wrong = list(deep["findings"])
    return Finding.of(
        "every byte",
        "; ".join(wrong[:5]) or f"{deep['packages']} packages, {deep['bytes'] / GB:.1f} GB",
        "verified",
        fits=not wrong,
        remedy="Restore the named files from a backup, or yank them; find out who wrote to the tree",
    )


def lines(status: Status, now: float | None = None) -> list[str]:
    """The status for a person, without the findings."""
    now = time.time() if now is None else now
    host, found = status.host, [f"{status.channel}: {status.head or 'nothing published'}"]
    snapshots = host.get("snapshots", [])
    head = next((row for row in snapshots if row["id"] == status.head), None)
    if head:
        found[0] += f", {ago(now - head['time'])}: {head['reason']}"
    if status.hold:
        found.append(
            f"  releases are {Hold.from_dict(status.hold)}" if "since" in status.hold else status.hold["reason"]
        )
    if host:
        pool, waiting = host["pool"], sum(row["bytes"] for row in host["incoming"])
        staged = sum(1 for row in snapshots if row["staged"])
        found.append(
            f"  pool {pool['files']} files, {size(pool['bytes'])}; {len(snapshots) - staged} snapshots,"
            f" {staged} staged; uploads waiting {size(waiting)}; orphans {len(host['orphans'])},"
            f" {size(sum(row['bytes'] for row in host['orphans']))}; room {size(host['room'])}"
        )
    if host.get("landlock") == 0:
        found.append("  the repo host's kernel has no Landlock: rsync, gpgv and rpm are confined by limits alone")
    found += [f"  {line}" for line in package_lines(status.packages)]
    if journal := host.get("journal", []):
        found.append("  journal")
        found += [f"    {journal_line(entry)}" for entry in journal]
    if refusals := host.get("refusals", []):
        found.append("  refused")
        found += [
            f"    {moment(row['time'])}  {row.get('from', '')}  {row.get('command', '')}: {row['error']}"
            for row in refusals
        ]
    return found


def package_lines(packages: Iterable[Package]) -> list[str]:
    """A row for each package name: the number of builds, the newest one, its size, the size of all."""
    names: dict[str, list[Package]] = {}
    for package in packages:
        names.setdefault(package.name, []).append(package)
    rows = [("package", "builds", "newest", "size", "all")]
    for name, builds in sorted(names.items()):
        newest = max(builds, key=lambda package: by_build((package.version, package.release)))
        total = sum(package.size for package in builds)
        rows.append((name, str(len(builds)), f"{newest.version}-{newest.release}", size(newest.size), size(total)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return lines if names else []


def journal_line(entry: Mapping[str, Any]) -> str:
    what = ", ".join(changes(entry["added"], entry["removed"], entry["yanked"])) or "no other packages"
    return f"{moment(entry['time'])}  {entry['snapshot']}  {what}: {entry['reason']} ({entry['who']})"
