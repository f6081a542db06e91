"""A build's report beside its log, and the comparison with the build before it.

Beside a build's log ``<flavour>-<rpm_version>-<UTC time>.log`` lies its report as ``.json`` and as a page, ``.html``.

Rules:

1. The JSON is written last: a build that has one is finished. ``last`` finds the newest of a flavour.
2. The page is one file without scripts and external resources; it links to the log and the JSON.
3. A report never fails a build: unknown values are omitted, and a page that cannot be rendered is a warning.
4. The cache's share of hits is compared with the flavour's build before it: a changed cache key fails nothing, but
   costs hours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..base.errors import PipelineError
from .report_data import BuildReport, Unit, hit_share, requests
from .report_page import page

ENOUGH = 20
"""The fewest requests of a kind from which its share of hits is compared."""

MARGIN = 0.2
"""The smallest fall of a share that is reported; smaller ones follow from changed sources."""

LARGEST_PROGRAMS = 5
"""The number of programs that are listed by memory."""

GIB = 1 << 30

EARLIER = 5
"""The number of earlier reports that a page links to."""

_NAME = re.compile(r"(?P<flavour>.+)-[^-]+-(?P<time>\d{8}T\d{6}Z)\.(?:log|json|html|log\.alive)")
_CUDA = ("CUDA", "CUDA (Device code)", "PTX", "CUBIN")


# ---------------------------------------------------------------- fewer cache hits


@dataclass(frozen=True)
class _Cause:
    """A likely cause of fewer hits: the ``kinds`` that it concerns (all when empty), and the remedy if there is one.

    ``certain`` is set for changes of the build's environment. A change of the sources alone is expected and warns of
    nothing.
    """

    text: str
    remedy: str = ""
    kinds: tuple[str, ...] = ()
    certain: bool = True


def drops(report: BuildReport, previous: BuildReport | None) -> list[str]:
    """Warnings for kinds whose share of hits fell by MARGIN since the build before.

    A kind is compared from ENOUGH requests on. With fewer requests in the build before, which found nearly everything
    compiled, its share counts as 1, and a fall is reported only if the environment changed.
    """
    if previous is None:
        return []
    before = {kind.kind: kind for kind in previous.kinds}
    causes = _causes(report, previous)
    found: dict[tuple[_Cause, ...], list[str]] = {}
    for kind in report.kinds:
        likely = tuple(cause for cause in causes if not cause.kinds or kind.kind in cause.kinds)
        usual = before.get(kind.kind)
        share = hit_share(usual) if usual and requests(usual) >= ENOUGH else None
        if requests(kind) < ENOUGH or (share is None and not any(cause.certain for cause in likely)):
            continue
        if (1.0 if share is None else share) - hit_share(kind) >= MARGIN:
            then = "" if share is None else f", {share:.0%} before"
            counts = f"{kind.hits} of {requests(kind)} {kind.kind} ({hit_share(kind):.0%}{then})"
            found.setdefault(likely, []).append(counts)
    return [_warning(report, previous, likely, kinds) for likely, kinds in found.items()]


def _warning(report: BuildReport, previous: BuildReport, likely: tuple[_Cause, ...], kinds: list[str]) -> str:
    # A change of the environment outweighs one of the sources.
    named = [cause for cause in likely if cause.certain] or list(likely)
    why = "; ".join(cause.text for cause in named) or "unknown"
    default = "The next build finds this one's results" if named else "Compare the reports of the two builds"
    remedy = ". ".join(cause.remedy for cause in named if cause.remedy) or default
    name, version = report.artifact.flavour.name, previous.artifact.source.version
    return (
        f"{name}: the compile cache had only {', '.join(kinds)}, less than in the build before ({version}). "
        f"Likely cause: {why}. {remedy}"
    )


def _causes(now: BuildReport, was: BuildReport) -> list[_Cause]:
    """The differences between two builds that affect the cache's keys or content."""
    a, b, new, old = now.artifact, was.artifact, now.cache, was.cache
    same_root = "Give all builders the same builder_root: its path is part of the cache's keys"
    changes = [
        _changed("rustc", b.rustc, a.rustc, "Rust"),
        _changed("RUSTFLAGS", b.rustflags, a.rustflags, "Rust"),
        _changed("the flavour's features", " ".join(b.flavour.features), " ".join(a.flavour.features), "Rust", *_CUDA),
        _changed("CUDA", b.cuda, a.cuda, *_CUDA),
        _changed("the compute capability", b.flavour.compute_capability, a.flavour.compute_capability, *_CUDA),
        _changed("the host compiler", was.host_compiler, now.host_compiler, "C/C++", *_CUDA),
        _changed("the builder's root", was.root, now.root, remedy=same_root),
        _changed("sccache", old.version, new.version),
    ]
    causes = [cause for cause in changes if cause]
    if new.shared_down and not old.shared_down:
        causes.append(_Cause("the shared level of the cache is down", "Check that compile_cache_endpoint answers"))
    if new.limit and new.size >= new.limit * 0.95:
        causes.append(
            _Cause(
                f"the cache is full ({new.size / GIB:.1f} of {new.limit / GIB:.1f} GiB) and evicts entries",
                "Raise compile_cache_size",
            )
        )
    elif new.size < old.size * 0.95:
        causes.append(_Cause(f"the cache was deleted ({old.size / GIB:.1f} GiB before, now {new.size / GIB:.1f} GiB)"))
    changed = len(now.crates - was.crates)
    if changed > len(now.crates) * 0.1:
        causes.append(
            _Cause(
                f"{changed} of {len(now.crates)} crates changed their version", kinds=("Rust", "C/C++"), certain=False
            )
        )
    if a.source.commit != b.source.commit:
        causes.append(_Cause(f"upstream went from {b.source.version} to {a.source.version}", certain=False))
    return causes


def _changed(what: str, old: str, new: str, *kinds: str, remedy: str = "") -> _Cause | None:
    """A cause for a changed value; None if it is equal, or unknown in one of the builds."""
    if old == new or not (old and new):
        return None
    return _Cause(f"{what} changed from {old} to {new}", remedy, kinds)


# ---------------------------------------------------------------- the folder of logs


def html(report: BuildReport, previous: BuildReport | None, earlier: Sequence[str] = ()) -> str:
    """The report as one page, compared with the flavour's build before it. Raises ImportError without Jinja2.

    ``earlier`` are the names of earlier pages of the flavour.
    """
    return page(report, previous, [*report.unprotected, *drops(report, previous)], earlier)


def leave(report: BuildReport) -> tuple[str, list[str]]:
    """Write the report beside its log. Returns the page's path ("" if there is none) and the warnings.

    A report that cannot be written is one of the warnings; so is a page on a builder without Jinja2.
    """
    log, flavour = Path(report.artifact.log), report.artifact.flavour.name
    target, data = log.with_suffix(".html"), log.with_suffix(".json")
    warnings = []
    try:
        previous = last(log.parent, flavour, incremental=report.artifact.incremental, trust=report.trust)
        try:
            target.write_text(html(report, previous, _pages(log, flavour)))
        except ImportError:
            warnings.append(f"{flavour}: the report {data} has no page: install python3-jinja2 on the builder")
        report.write(data)
    except OSError as error:
        return "", [f"the report of this build could not be written ({error}); the build itself succeeded"]
    return "" if warnings else str(target), [*warnings, *report.unprotected, *drops(report, previous)]


def _pages(log: Path, flavour: str) -> list[str]:
    """The names of the flavour's newest pages but that of ``log``."""
    pages = [path.name for _, files in _builds(log.parent, flavour) for path in files if path.suffix == ".html"]
    return [name for name in pages if name != log.with_suffix(".html").name][:EARLIER]


def last(folder: Path, flavour: str, *, incremental: bool = False, trust: str = "release") -> BuildReport | None:
    """The newest report of a flavour's builds of that kind and trust; unreadable ones of other versions are skipped."""
    for _, files in _builds(folder, flavour):
        for path in files:
            if path.suffix == ".json":
                with suppress(OSError, PipelineError):
                    found = BuildReport.read(path)
                    if (found.artifact.incremental, found.trust) == (incremental, trust):
                        return found
    return None


def usual(folder: Path, flavour: str) -> tuple[Unit, ...]:
    """The units of the flavour's last whole build with their times.

    Most builds compile the difference and know nothing of the rest: whole are those with nearly the most units.
    """
    found: list[BuildReport] = []
    for _, files in _builds(folder, flavour):
        for path in files:
            if path.suffix == ".json":
                with suppress(OSError, PipelineError):
                    found.append(BuildReport.read(path))
    most = max((len(one.units) for one in found), default=0)
    return next((one.units for one in found if len(one.units) >= 0.8 * most), ())


def rotate(folder: Path, flavour: str, keep: int, writing: Path | None = None) -> list[Path]:
    """Delete and return the files of all but the newest ``keep`` builds of a flavour.

    The build of the log ``writing`` always stays.
    """
    gone = []
    for _, files in _builds(folder, flavour)[max(keep, 0) :]:
        if writing not in files:
            for path in files:
                path.unlink(missing_ok=True)
                gone.append(path)
    return gone


def _builds(folder: Path, flavour: str) -> list[tuple[str, list[Path]]]:
    """The files of each build of a flavour, the newest build first.

    A build that began more than an hour from now ran before the clock was set back: it is among the oldest.
    """
    now = f"{datetime.now(UTC) + timedelta(hours=1):%Y%m%dT%H%M%SZ}"
    builds: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"{flavour}-*")):
        found = _NAME.fullmatch(path.name)
        if found and found["flavour"] == flavour:
            builds.setdefault(found["time"], []).append(path)
    return sorted(builds.items(), key=lambda build: (build[0] <= now, build[0]), reverse=True)
