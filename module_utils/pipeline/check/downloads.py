"""Downloads: whether the dependencies of a build are here already, or their addresses answer.

Rules:

1. Dependencies that are here cause no request: ``cargo fetch --offline`` decides for crates (recorded for each
   Cargo.lock), the checkouts of CUTLASS for CUTLASS.
2. Each other address gets one small request, all at the same time, with a short timeout. Requests use the
   environment's proxies and the mirrors, as the download will.
"""

from __future__ import annotations

import os
import re
import ssl
import tempfile
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..base.environment import Proxy, opener, proxy_of
from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.git import git, remote_remedy
from ..base.lock import held
from ..base.records import Source
from ..base.run import CommandFailed, run
from ..base.text import without_account
from ..build.failures import RUST
from ..build.fetch import reasons
from ..source.checkout import current_commit, move
from ..source.manifest import LOCK, Tree
from ..source.mirrors import CUTLASS, Mirrors, has_cutlass, place_registry
from ..toolchain.rust import TARGET, Rust
from .commit import ALWAYS, check_lock, cutlass_commits
from .trials import Trials, alone, identity

TIMEOUT = 15
HERE = "not needed: all is here"
REGISTRY = "crate registry"
CRATES_IO = "crates.io"
"""The registry without a mirror. cargo knows its address."""

_MANIFEST = """\
[package]
name = "reach"
version = "0.0.0"
edition = "2021"
[lib]
path = "lib.rs"
[dependencies]
cfg-if = "1"
"""

# ---------------------------------------------------------------- decisions


@dataclass(frozen=True)
class Download:
    """An address that a build may use; ``here``: all that it serves to this build is here already."""

    what: str
    where: str
    here: bool


def git_sources(lock: str) -> list[str]:
    """The git repositories that a Cargo.lock takes crates from, each once."""
    sources = [package.get("source", "") for package in tomllib.loads(lock).get("package", [])]
    found = (re.match(r"git\+([^?#]+)", source) for source in sources)
    return list(dict.fromkeys(match[1] for match in found if match))


def index_file(registry: str) -> str:
    """The one file that every sparse index has, by the index's address."""
    return registry.removeprefix("sparse+").rstrip("/") + "/config.json"


def check_download(what: str, where: str, reason: str, *, here: bool) -> Finding:
    """``reason`` is why the address does not answer, or ""; with ``here`` that is no failure."""
    mirror = "cargo_registry_mirror" if what == REGISTRY else "git_mirrors"
    return Finding.of(
        f"{what} {where}",
        "answers" if not reason else f"{HERE} ({reason})" if here else reason,
        "an answer",
        fits=not reason or here,
        remedy=remote_remedy(where, reason)
        or f"Check that this host reaches {where}: network, proxy (https_proxy, no_proxy), certificates; "
        f"or name a mirror ({mirror})",
    )


def check_lock_reads(reason: str) -> Finding | None:
    """The finding for a Cargo.lock that cargo cannot read, by cargo's reason; None if it reads it."""
    if "failed to parse lock file" not in reason:
        return None
    remedy = RUST if "perhaps Cargo needs to be updated" in reason else "Report it upstream: no cargo reads it"
    return Finding.bad(LOCK, reason, "a lock that cargo reads", remedy)


# ---------------------------------------------------------------- the edge: downloads


def git_answer(url: str) -> str:
    """Why git does not reach a repository, or ""."""
    try:
        git("ls-remote", "--exit-code", "--", url, "HEAD", timeout=TIMEOUT)
    except CommandFailed as error:
        # 2: it answers, and has no HEAD.
        lines = [line for line in error.stderr.strip().splitlines() if line.startswith(("fatal:", "error:"))]
        return "" if error.status == 2 else next(iter(lines), error.what)
    except PipelineError as error:
        return error.what
    return ""


def asks_cargo(registry: str) -> bool:
    """Whether cargo has to ask a registry: it alone knows the address, or can use the proxy."""
    return registry == CRATES_IO or not Proxy.can(proxy_of(index_file(registry)))


def registry_answer(registry: str) -> str:
    """Why a crate registry's index does not answer, or ""."""
    url = index_file(registry)
    if not url.startswith(("http://", "https://")):
        return "" if Path(registry.removeprefix("file://")).is_dir() else "there is no such folder"
    context = ssl.create_default_context(cafile=os.environ.get("CARGO_HTTP_CAINFO"))
    try:
        with opener(url, urllib.request.HTTPSHandler(context=context)).open(url, timeout=TIMEOUT) as answer:
            return "" if b'"dl"' in answer.read(1 << 16) else "it answers, but is no crate registry"
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", None) or error)


def cargo_answer(rust: Rust | None, home: Path, path: str) -> str:
    """Why cargo does not reach the registry of its configuration below ``home``, or "".

    cargo resolves one dependency of an empty package, which takes two small files of the index. It runs in / since it
    reads the configuration of every folder above its working directory.
    """
    if rust is None:
        return "there is no cargo"
    env = {"CARGO_HOME": str(home), "PATH": path, "CARGO_NET_RETRY": "0", "CARGO_HTTP_TIMEOUT": str(TIMEOUT)}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Cargo.toml").write_text(_MANIFEST)
        (Path(folder) / "lib.rs").touch()
        try:
            words = [str(rust.bin / "cargo"), "generate-lockfile", "--manifest-path", f"{folder}/Cargo.toml"]
            run(words, cwd=Path("/"), env=env, timeout=4 * TIMEOUT)
        except CommandFailed as error:
            lines = [line for line in error.stderr.splitlines() if not re.match(r" +[A-Z]\w+ing\b", line)]
            causes = [line.strip() for line in lines if line.startswith("  ")]
            return causes[-1] if causes else error.what
        except PipelineError as error:
            return error.what
    return ""


def check_downloads(downloads: Sequence[Download], cargo: Callable[[str], str] = lambda _: "") -> list[Finding]:
    """A finding for each address; all requests run at the same time, one for each address.

    ``cargo`` answers for a registry: CRATES_IO, or one behind a proxy that this process cannot use.
    """
    # An address that one of several downloads needs is needed.
    rows = sorted(downloads, key=lambda download: not download.here)
    needed = list({(row.what, row.where): row for row in rows}.values())
    with ThreadPoolExecutor(max_workers=len(needed) or 1) as threads:
        reasons = list(threads.map(lambda one: _answer(one, cargo), needed))
    return [
        check_download(one.what, without_account(one.where), without_account(reason), here=one.here)
        for one, reason in zip(needed, reasons, strict=True)
    ]


def _answer(one: Download, cargo: Callable[[str], str]) -> str:
    if one.what != REGISTRY:
        return git_answer(one.where)
    return cargo(one.where) if asks_cargo(one.where) else registry_answer(one.where)


@dataclass(frozen=True)
class DownloadNeeds:
    """The build whose downloads are checked: ``package`` of ``source``, whose commit is in ``checkout`` already.

    ``ask`` makes network requests even where nothing must be downloaded. ``rust`` and ``path`` are those of the build,
    ``locked`` is the channel's, ``compute_cap`` that of the GPU, "" without one.
    """

    root: Path
    checkout: Path
    source: Source
    package: str
    tree: Tree
    rust: Rust | None
    path: str
    mirrors: Mirrors
    compute_cap: str
    ask: bool
    locked: str = ALWAYS


def check(needs: DownloadNeeds, trials: Trials) -> list[Finding]:
    """A finding for each address that gets a request, or one finding where none needs to."""
    source, repository = needs.source, needs.checkout
    try:
        reason = _fetched(needs, trials)
    except _Busy:
        return [Finding.ok("crates", "not checked: another build is running here", "all of Cargo.lock")]
    if unreadable := check_lock_reads(reason):
        return [unreadable]
    stale = [] if needs.tree.misfit or "--locked" not in reason else [check_lock(reason, needs.locked)]
    here = not reason
    lock = git("show", f"{source.commit}:Cargo.lock", repository=repository) if needs.tree.lock else ""
    sent = needs.mirrors.sent
    downloads = [
        Download("git", sent(source.url), here=True),
        *(Download("git", sent(url), here) for url in git_sources(lock)),
    ]
    if "registry+" in lock:
        downloads.append(Download(REGISTRY, needs.mirrors.registry or CRATES_IO, here))
    cap = needs.compute_cap
    if cap and (commits := cutlass_commits(repository, needs.tree, cap, needs.mirrors)):
        there = all(has_cutlass(needs.root / "cudaforge", commit) for commit in commits)
        downloads.append(Download("git", sent(CUTLASS), there))
    asking = [download for download in downloads if needs.ask or not download.here]
    found = check_downloads(asking, lambda registry: _by_cargo(needs, registry))
    return [*stale, *found] or [Finding.ok("downloads", HERE, "crates and commits")]


def _by_cargo(needs: DownloadNeeds, registry: str) -> str:
    """Why cargo does not reach a registry, or "": by the builder's own configuration, or by one that names a mirror."""
    if registry == CRATES_IO:
        return cargo_answer(needs.rust, needs.root / "cargo", needs.path)
    with tempfile.TemporaryDirectory() as home:
        place_registry(Path(home), registry)
        return cargo_answer(needs.rust, Path(home), needs.path)


class _Busy(PipelineError):
    """Another build holds the checkout."""


def _busy() -> None:
    raise _Busy("another build is running here")


def _fetched(needs: DownloadNeeds, trials: Trials) -> str:
    """Why cargo needs the network, or ""; _Busy where the checkout cannot be moved now."""
    root, rust, home = needs.root, needs.rust, needs.root / "cargo"
    if rust is None:
        return "there is no cargo"
    folders = [*sorted((home / "registry").glob("cache/*")), *(home / "git" / name for name in ("db", "checkouts"))]
    depends = [needs.tree.lock, rust.description, *map(identity, [*folders, home / "config.toml"])]

    def attempt() -> str:
        # In the root folder: cargo reads a configuration in the working directory and in all folders above.
        words = ["env", "--chdir=/", f"CARGO_HOME={home}", f"HOME={root / 'home'}", "CARGO_NET_GIT_FETCH_WITH_CLI=true"]
        words += [str(rust.bin / "cargo"), "fetch", "--locked", "--offline", "--target", TARGET]
        with held(root / "lock", _busy):
            if current_commit(needs.checkout) != needs.source.commit:
                move(needs.checkout, needs.source)
            words += ["--manifest-path", str(needs.checkout / "Cargo.toml")]
            return alone(words, needs.path, reason=lambda output: " | ".join(reasons(output.splitlines())))

    return trials.failure("crates", depends, attempt)
