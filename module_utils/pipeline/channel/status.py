"""Status: what a channel holds, and what is wrong with it.

Rules:

1. What clients read (``location``) and what the publisher agent says are looked at apart: where they differ, that
   is a finding. So is a part that does not answer; the others are told all the same.
2. A finding that does not fit makes the run fail. What only waits for its time (a staged snapshot, a file of the
   pool that prune will take) is shown, and is no finding.
3. Looking changes nothing.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.records import Package, Record
from ..base.versions import rpm_order
from .reader import Published

GB = 10**9
ROOM = 3  # times the largest package: a release brings one for each flavour


@dataclass(frozen=True)
class Report(Record):
    """One channel: its findings, its packages, and what the agent said (``host``, empty if it did not answer)."""

    channel: str
    head: str
    findings: tuple[Finding, ...]
    packages: tuple[Package, ...]
    host: dict[str, Any]


def report(
    channel: str,
    published: Published | PipelineError,
    host: Mapping[str, Any] | PipelineError,
    keys: Iterable[Finding],
    deep: Mapping[str, Any] | PipelineError | None = None,
) -> Report:
    """What reading the channel, asking the agent and looking at the keys gave, or the errors that they gave.

    ``deep`` is the agent's answer to ``verify``, None where nobody asked.
    """
    findings = [check_signed(published)]
    packages: tuple[Package, ...] = () if isinstance(published, PipelineError) else published.packages
    if isinstance(host, PipelineError):
        findings.append(Finding("publisher agent", host.what, "an answer", False, f"{host.where}: {host.remedy}"))
        host = {}
    else:
        if not isinstance(published, PipelineError):
            findings.append(check_head(published.head, str(host["snapshot"])))
        findings += [check_pool(host["missing"]), check_room(int(host["room"]), packages)]
    if isinstance(deep, PipelineError):
        findings.append(Finding("every byte", deep.what, "verified", False, f"{deep.where}: {deep.remedy}"))
    elif deep is not None:
        findings.append(check_bytes(deep))
    head = str(host.get("snapshot", "")) or ("" if isinstance(published, PipelineError) else published.head)
    return Report(channel, head, (*findings, *keys), packages, dict(host))


def check_signed(published: Published | PipelineError) -> Finding:
    if isinstance(published, PipelineError):
        return Finding(
            "signature", published.what, "by the trusted key", False, f"{published.where}: {published.remedy}"
        )
    return Finding(
        "signature", "by the trusted key" if published.head else "nothing published", "by the trusted key", True
    )


def check_head(seen: str, head: str) -> Finding:
    fits = seen == head
    return Finding(
        "what clients see", seen or "nothing", head or "nothing", fits,
        "See what stands between the agent's folder and the address that clients use: another root, a cache"
        if not fits else "",
    )  # fmt: skip


def check_pool(missing: Sequence[str]) -> Finding:
    return Finding(
        "pool", f"without {', '.join(missing[:5])}" if missing else "whole", "whole", not missing,
        "Somebody took files away by hand: put them back from a backup, or yank them" if missing else "",
    )  # fmt: skip


def check_room(room: int, packages: Iterable[Package]) -> Finding:
    needed = ROOM * max((package.size for package in packages), default=0)
    fits = room > needed
    return Finding(
        "room on the repo host", f"{room / GB:.1f} GB", f"> {needed / GB:.1f} GB", fits,
        "Run prune.yml, or give the repo host more disk" if not fits else "",
    )  # fmt: skip


def check_bytes(deep: Mapping[str, Any]) -> Finding:
    wrong = list(deep["findings"])
    return Finding(
        "every byte", "; ".join(wrong[:5]) or f"{deep['packages']} packages, {deep['bytes'] / GB:.1f} GB", "verified",
        not wrong,
        "Restore the named files from a backup, or yank them; find out who wrote to the tree" if wrong else "",
    )  # fmt: skip


def lines(report: Report, now: float | None = None) -> list[str]:
    """The report for a person; the findings are not in it."""
    now = time.time() if now is None else now
    host, found = report.host, [f"{report.channel}: {report.head or 'nothing published'}"]
    snapshots = host.get("snapshots", [])
    head = next((row for row in snapshots if row["id"] == report.head), None)
    if head:
        found[0] += f", {ago(now - head['time'])}: {head['reason']}"
    if host:
        pool, waiting = host["pool"], sum(row["bytes"] for row in host["incoming"])
        staged = sum(1 for row in snapshots if row["staged"])
        found.append(
            f"  pool {pool['files']} files, {size(pool['bytes'])}; {len(snapshots) - staged} snapshots,"
            f" {staged} staged; uploads waiting {size(waiting)}; orphans {len(host['orphans'])},"
            f" {size(sum(row['bytes'] for row in host['orphans']))}; room {size(host['room'])}"
        )
    found += [f"  {line}" for line in package_lines(report.packages)]
    if journal := host.get("journal", []):
        found.append("  journal")
        found += [f"    {journal_line(entry)}" for entry in journal]
    if refusals := host.get("refusals", []):
        found.append("  refused")
        found += [
            f"    {day(row['time'])}  {row.get('from', '')}  {row.get('command', '')}: {row['error']}"
            for row in refusals
        ]
    return found


def package_lines(packages: Iterable[Package]) -> list[str]:
    """A row for each package name: how many builds, the newest, its size."""
    names: dict[str, list[Package]] = {}
    for package in packages:
        names.setdefault(package.name, []).append(package)
    rows = [("package", "builds", "newest", "size", "all")]
    for name, builds in sorted(names.items()):
        newest = max(builds, key=functools.cmp_to_key(older))
        total = sum(package.size for package in builds)
        rows.append((name, str(len(builds)), f"{newest.version}-{newest.release}", size(newest.size), size(total)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return lines if names else []


def older(left: Package, right: Package) -> int:
    return rpm_order(left.version, right.version) or rpm_order(left.release, right.release)


def journal_line(entry: Mapping[str, Any]) -> str:
    return (
        f"{day(entry['time'])}  {entry['snapshot']}  {len(entry['added'])} added, {len(entry['removed'])} removed:"
        f" {entry['reason']} ({entry['who']})"
    )


def size(count: float) -> str:
    """Bytes for a person: "0.2 MB", "1.3 GB"."""
    return f"{count / GB:.1f} GB" if count >= GB else f"{count / 10**6:.1f} MB"


def day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def ago(seconds: float) -> str:
    """A span of time in its largest unit: "5 min ago", "3 h ago", "12 days ago"."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
