"""The download before the compile, which itself runs offline.

With all crates in CARGO_HOME ``cargo fetch --locked`` takes half a second and needs no network (cargo 1.95, measured in
an empty network namespace); ``--offline`` is no faster.

It runs outside of the sandbox, and never upstream's code. cargo reads a configuration, which may name programs to run,
in its working directory and in all folders above: it runs in the root folder, and gets the manifest by its path.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..base.environment import reaching
from ..base.errors import PipelineError
from ..source.git_folder import remove_locks
from ..source.mirrors import Mirrors, cutlass_wanted, place_registry, seed_cutlass
from ..toolchain.rust import TARGET
from .failures import RUST, Failure, explain, first_error
from .progress import LineReader

_NEUTRAL = Path("/")


def refuse_configuration_above(checkout: Path) -> None:
    """PipelineError if cargo finds a configuration above the checkout, which without a sandbox it would obey."""
    for folder in checkout.absolute().parents:
        for name in ("config.toml", "config"):
            if (file := folder / ".cargo" / name).exists():
                raise PipelineError(
                    "cargo would read a configuration that is not upstream's, since there is no sandbox",
                    str(file),
                    "Move it away, set builder_root to a folder without one above it, or leave sandbox as it is",
                )


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
    """Download the crates, and CUTLASS where the package needs it; returns whether Cargo.lock was used as it is.

    With ``locked`` "always" a stale lock raises PipelineError; with "prefer" cargo may update it. ``environment`` is
    the compile's, which sets CUDAFORGE_HOME for a flavour with a GPU. ``mirrors`` replace the origins.
    """
    mirrors = mirrors or Mirrors()
    variables = {**environment, **reaching(), **mirrors.environment}
    place_registry(Path(environment["CARGO_HOME"]), mirrors.registry)
    # The builder's lock is held: no other cargo fetches into them.
    for database in Path(environment["CARGO_HOME"], "git", "db").glob("*/"):
        remove_locks(database)
    as_locked = _crates(checkout, cargo, variables, locked, stream, mirrors)
    if home := environment.get("CUDAFORGE_HOME"):
        wanted = dict.fromkeys(mirrors.cutlass_commits, "cutlass_commits")
        if not wanted:
            found = packages(checkout, cargo, environment, package, features, locked=as_locked)
            wanted = cutlass_wanted(found, package, environment.get("CUDA_COMPUTE_CAP", ""))
        for commit, asked_by in wanted.items():
            seeded = seed_cutlass(Path(home), commit, asked_by, mirrors, variables)
            stream.write(f"CUTLASS {commit} for {asked_by}: {'fetched' if seeded else 'is here'}\n")
    return as_locked


def _crates(
    checkout: Path, cargo: Path, variables: Mapping[str, str], locked: str, stream: IO[str], mirrors: Mirrors
) -> bool:
    if (lock := checkout / "Cargo.lock").is_symlink():
        # cargo would write through it, here outside of the sandbox.
        raise PipelineError("upstream's Cargo.lock is a link", str(lock), "Report it upstream: nothing was downloaded")
    # An earlier build may have changed Cargo.lock; the checkout has restored it before this.
    for as_locked in (True, False):
        words = [str(cargo), "fetch", "--target", TARGET, *(["--locked"] if as_locked else [])]
        words += ["--manifest-path", str(checkout / "Cargo.toml")]
        stream.write(f"$ {' '.join(words)}\n")
        done = subprocess.run(  # noqa: S603
            words, cwd=_NEUTRAL, env=variables, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        output = [line for line in LineReader().feed(done.stderr.encode() + b"\n") if isinstance(line, str)]
        stream.writelines(f"{line}\n" for line in output)
        if done.returncode == 0:
            return as_locked
        stale = any("--locked" in line for line in output)
        if locked == "always" or not stale:
            raise PipelineError(
                "the crates could not be fetched: " + " | ".join(reasons(output)),
                where=str(checkout / "Cargo.lock"),
                remedy=_remedy(output, mirrors),
            )
        stream.write("Cargo.lock is stale: going on without --locked, which the manifest records\n")
    raise AssertionError


def _remedy(output: Sequence[str], mirrors: Mirrors) -> str:
    """The remedy for a failed download: the sources' or cargo's own fault, else the network's."""
    failure = explain(output)
    if _is_settled(failure):
        return f"{failure.cause[0].upper()}{failure.cause[1:]}: {failure.remedy[0].lower()}{failure.remedy[1:]}"
    return f"{_suspect(output, mirrors)}. Then run again: finished downloads are kept"


def _is_settled(failure: Failure) -> bool:
    """Whether the sources or cargo itself are at fault, whatever the network and the settings are."""
    return failure.upstreams or failure.remedy == RUST


def _suspect(output: Sequence[str], mirrors: Mirrors) -> str:
    """The remedy: the mirror that a failed download names, else the network."""
    text = "\n".join(reasons(output, 99))
    return (
        mirrors.blamed(text)
        or mirrors.registry_blamed(text)
        or "Check the network, the proxy and the registry; behind a firewall set git_mirrors and cargo_registry_mirror"
    )


def reasons(output: Sequence[str], limit: int = 6) -> list[str]:
    """The lines of a failed download that name the missing item and the reason; git's and curl's lines come first."""
    causes = [line.strip() for line in output if re.match(r"\s*(fatal: |\[\d+\] )", line)]
    error = [line.strip() for line in first_error(output, 12) if line.strip() != "Caused by:"]
    shown = [line for line in error if not line.startswith(("process didn't exit", "error: failed to get"))]
    return list(dict.fromkeys([*causes[:1], *(shown or error)]))[:limit]


def packages(
    checkout: Path, cargo: Path, environment: Mapping[str, str], package: str, features: Sequence[str], *, locked: bool
) -> dict[str, Any]:
    """The output of ``cargo metadata`` for ``package`` with these features and all its dependencies, offline.

    Without ``locked`` cargo may rewrite Cargo.lock.
    """
    words = [
        str(cargo), "metadata", "--format-version", "1", "--offline", *(["--locked"] if locked else []),
        "--manifest-path", str(checkout / "Cargo.toml"), "--filter-platform", TARGET,
        "--features", " ".join(f"{package}/{name}" for name in features),
    ]  # fmt: skip
    done = subprocess.run(  # noqa: S603
        words, cwd=_NEUTRAL, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode != 0:
        output = done.stderr.splitlines()
        failure = explain(output)
        raise PipelineError(
            "cargo metadata failed: " + " | ".join(first_error(output, 6)),
            where=str(checkout),
            remedy=failure.remedy if _is_settled(failure) else "Check that upstream has all features of the flavour",
        )
    return dict(json.loads(done.stdout))
