"""The download before the compile, which itself needs no network.

cargo asks nobody for what is here: with all crates in CARGO_HOME ``cargo fetch --locked`` takes half a second and
passes without a network (cargo 1.95, tried in an empty network namespace); ``--offline`` is no quicker.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..base.errors import PipelineError
from ..source.mirrors import Mirrors, cutlass_wanted, place_registry, seed_cutlass
from ..toolchain.rust import TARGET
from .failures import first_error
from .progress import LineReader

_ENVIRONMENT = (
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO",
)  # fmt: skip


def fetch(
    checkout: Path,
    cargo: Path,
    environment: Mapping[str, str],
    locked: str,
    stream: IO[str],
    *,
    mirrors: Mirrors | None = None,
    package: str = "",
    features: Sequence[str] = (),
) -> bool:
    """Download the crates, and CUTLASS where the package needs it; True when Cargo.lock was kept to.

    A channel that is ``locked: always`` fails where the lock does not fit; with ``prefer`` cargo may
    update it, which the manifest records. ``environment`` is the compile's, and names CUDAFORGE_HOME where there is a
    GPU; ``mirrors`` say where all of it comes from.
    """
    mirrors = mirrors or Mirrors()
    allowed = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    variables = {**environment, **allowed, **mirrors.environment}
    place_registry(Path(environment["CARGO_HOME"]), mirrors.registry)
    kept = _crates(checkout, cargo, variables, locked, stream, mirrors)
    if home := environment.get("CUDAFORGE_HOME"):
        wanted = dict.fromkeys(mirrors.cutlass_commits, "cutlass_commits")
        if not wanted:
            wanted = cutlass_wanted(packages(checkout, cargo, environment, package, features, locked=kept), package)
        for commit, asked_by in wanted.items():
            seeded = seed_cutlass(Path(home), commit, asked_by, mirrors, variables)
            stream.write(f"CUTLASS {commit} for {asked_by}: {'fetched' if seeded else 'is here'}\n")
    return kept


def _crates(
    checkout: Path, cargo: Path, variables: Mapping[str, str], locked: str, stream: IO[str], mirrors: Mirrors
) -> bool:
    # A checkout that was built without the lock carries cargo's changes to it: git restored it before this.
    for keep in (True, False):
        words = [str(cargo), "fetch", "--target", TARGET, *(["--locked"] if keep else [])]
        stream.write(f"$ {' '.join(words)}\n")
        done = subprocess.run(  # noqa: S603
            words, cwd=checkout, env=variables, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        said = [line for line in LineReader().feed(done.stderr.encode() + b"\n") if isinstance(line, str)]
        stream.writelines(f"{line}\n" for line in said)
        if done.returncode == 0:
            return keep
        stale = any("--locked" in line for line in said)
        if locked == "always" or not stale:
            raise PipelineError(
                "the crates could not be fetched: " + " | ".join(reasons(said)),
                where=str(checkout / "Cargo.lock"),
                remedy="Upstream's Cargo.lock does not fit its manifests: report it there"
                if stale
                else f"{_suspect(said, mirrors)}. Then run again: it goes on from here, and asks for nothing twice",
            )
        stream.write("Cargo.lock does not fit: going on without --locked, which the manifest records\n")
    raise AssertionError


def _suspect(said: Sequence[str], mirrors: Mirrors) -> str:
    text = "\n".join(reasons(said, 99))
    return (
        mirrors.blamed(text)
        or mirrors.registry_blamed(text)
        or "Check the network, the proxy and the registry; without a way there, git_mirrors and cargo_registry_mirror"
    )


def reasons(said: Sequence[str], limit: int = 6) -> list[str]:
    """The lines of a failed download that say what is missing and why: git's and the network's own words come first."""
    causes = [line.strip() for line in said if re.match(r"\s*(fatal: |\[\d+\] )", line)]
    told = [line.strip() for line in first_error(said, 12) if line.strip() != "Caused by:"]
    shown = [line for line in told if not line.startswith(("process didn't exit", "error: failed to get"))]
    return list(dict.fromkeys([*causes[:1], *(shown or told)]))[:limit]


def packages(
    checkout: Path, cargo: Path, environment: Mapping[str, str], package: str, features: Sequence[str], *, locked: bool
) -> dict[str, Any]:
    """What ``cargo metadata`` knows of all that ``package`` with these features is made of, without a network.

    Without ``locked`` cargo writes Cargo.lock anew where it would spell it otherwise.
    """
    words = [
        str(cargo), "metadata", "--format-version", "1", "--offline", *(["--locked"] if locked else []),
        "--filter-platform", TARGET, "--features", " ".join(f"{package}/{name}" for name in features),
    ]  # fmt: skip
    done = subprocess.run(  # noqa: S603
        words, cwd=checkout, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise PipelineError(
            "cargo cannot tell the packages: " + " | ".join(first_error(done.stderr.splitlines(), 6)),
            where=str(checkout),
            remedy="See that the flavour's features are those that upstream has",
        )
    return dict(json.loads(done.stdout))
