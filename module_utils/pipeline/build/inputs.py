"""The inputs of a build, and the command and environment that cargo gets for them.

Rules:

1. The paths of the checkout, of CARGO_HOME and of the target directory are fixed below the builder's root:
   they are part of the caches' keys. In the sandbox they are the same for each trust, and no path there holds a
   character that cargo, compilers or build scripts would split (plain).
2. Cargo's environment is a whitelist. Nothing of the caller's environment reaches the compile.
3. RUSTFLAGS is always set: nothing else overrides the ``target-cpu=native`` in upstream's .cargo/config.toml.
4. An artifact's folder is named by the digest of its inputs. A compile cache changes the speed of a build and never
   its result: it is no input.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from ..base.records import Flavour, Parallel, Source, digest_of
from ..base.sandbox import HOME, plain
from ..cache.compile_cache import Cache
from ..source.mirrors import Mirrors
from ..source.trust import RELEASE, state_of
from ..toolchain import nvcc
from ..toolchain.layout import build_path
from ..toolchain.rust import Rust
from .inside import REMAP
from .limits import of_this_host

BUILDER = "/builder"
"""The path that replaces the builder's root in a binary, in panic messages for example."""

EPOCH = 315532800
"""SOURCE_DATE_EPOCH of every build: 1980-01-01, the earliest date that zip files can hold. It is the same for every
commit, so that crates which embed it (rust-embed, built, __DATE__) stay cached across commits."""


@dataclass(frozen=True)
class Build:
    """One build: all inputs that decide an artifact's bytes, where it runs, and how much at once.

    ``toolkit`` is the CUDA toolkit's folder, ``toolkit_version`` its nvcc's own version ("13.0.88"). ``incremental``
    has rustc keep its incremental state of upstream's own crates for the next build; releases never do. ``trust`` and
    ``share_trust`` decide where the build's state lies (source/trust). Without ``protected`` upstream's code runs as
    the builder's account, with all that this account may do.
    """

    root: Path
    source: Source
    flavour: Flavour
    package: str
    binary: str
    rust: Rust
    toolkit: str
    toolkit_version: str
    rustflags: str
    locked: str
    parallel: Parallel = field(default_factory=of_this_host)
    cache: Cache | None = None
    mirrors: Mirrors = field(default_factory=Mirrors)
    logs_kept: int = 20
    incremental: bool = False
    trust: str = RELEASE
    share_trust: bool = False
    protected: bool = True

    @property
    def programs(self) -> list[Path]:
        """The compilers and the cache, which are verified before they are used."""
        nvcc = [Path(self.toolkit, "bin", "nvcc")] if self.toolkit else []
        cache = [self.cache.program] if self.cache and self.cache.program.exists() else []
        return [self.rust.bin / "cargo", self.rust.bin / "rustc", *nvcc, *cache]

    @property
    def state(self) -> Path:
        """The folder on the host with the checkout, target directory and cache of this build's trust."""
        return state_of(self.root, self.trust, shared=self.share_trust)

    @property
    def apart(self) -> bool:
        """Whether this build's state is not that of releases."""
        return self.state != self.root

    @property
    def seen(self) -> Path:
        """The folder where cargo sees ``state``."""
        return self.root if self.protected else self.state

    def inside(self, path: str | Path) -> Path:
        """Where the compile sees a path of the host."""
        return plain(Path(path)) if self.protected else Path(path)

    @property
    def checkout(self) -> Path:
        """The checkout, as cargo sees it."""
        return self.inside(self.seen / "src")

    @property
    def target(self) -> Path:
        """The target directory, as cargo sees it."""
        return self.inside(self.seen / "target")

    @property
    def unprotected(self) -> tuple[str, ...]:
        """The protections that the operator has switched off, one sentence each."""
        found = []
        if not self.protected:
            found.append("sandbox is none: upstream's code ran with all rights of the builder's account")
        if self.share_trust:
            found.append("builder_share_trust is true: builds of any commit write what releases are built from")
        return tuple(found)

    @property
    def variant(self) -> str:
        """The part of the inputs that decides GPU code (variants); "" without a GPU."""
        return f"{self.flavour.arch}-cuda-{self.toolkit_version}-{nvcc.DIGEST}" if self.flavour.cuda else ""

    @property
    def inputs(self) -> str:
        """The digest that names the artifact.

        The root and the parallelism are not part of it; nor is the host's C compiler, whose change alone triggers no
        build.
        """
        return digest_of({
            "engine": [BUILDER, EPOCH, nvcc.DIGEST if self.flavour.cuda else ""],
            "registry": self.mirrors.registry,
            "commit": self.source.commit,
            "version": self.source.version,
            "flavour": [self.flavour.name, self.flavour.compute_capability, sorted(self.flavour.features)],
            "package": [self.package, self.binary],
            "rustc": self.rust.description,
            "cuda": self.toolkit_version if self.flavour.cuda else "",
            "rustflags": self.rustflags,
            "locked": self.locked,
            "trust": self.trust,
            **({"incremental": True} if self.incremental else {}),
        })  # fmt: skip

    def published(self, url: str = "", release: str = "") -> dict[str, str]:
        """What becomes of the artifact in the repository at ``url``, by name; nothing without a channel that takes it.

        ``release`` is the package's, with its dist tag.
        """
        if not url or self.incremental:
            return {}
        name = f"{self.flavour.package_name}-{self.source.rpm_version}-{release}.x86_64.rpm"
        return {
            "its package, once published": f"{url}/Packages/{quote(name)}",
            "the repository's head": f"{url}/mirrorlist",
        }

    @property
    def folder(self) -> Path:
        return self.root / "artifacts" / self.flavour.name / self.inputs[:16]


def environment(build: Build) -> dict[str, str]:
    """The whole environment of the compile, without the cache's variables."""
    # The builder's paths never reach the output: any root gives the same bytes.
    mapped = f"{build.inside(build.root)}={BUILDER}"
    variables = {
        "PATH": build_path(build.inside(build.rust.bin), None),
        "HOME": str(HOME if build.protected else build.root / "home"),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "SOURCE_DATE_EPOCH": str(EPOCH),
        "CARGO_HOME": str(build.inside(build.root / "cargo")),
        "CARGO_NET_GIT_FETCH_WITH_CLI": "true",
        "CARGO_TERM_COLOR": "never",
        "CARGO_TERM_PROGRESS_WHEN": "always",
        "CARGO_TERM_PROGRESS_WIDTH": "200",
        "RUSTFLAGS": f"{build.rustflags} {REMAP}{mapped}",
        # The crate cc then prints its commands, which the audit reads.
        "CC_ENABLE_DEBUG_OUTPUT": "1",
        "CFLAGS": f"-ffile-prefix-map={mapped}",
        "CXXFLAGS": f"-ffile-prefix-map={mapped}",
        **build.mirrors.environment,
    }
    return variables | _cuda_environment(build, mapped) if build.flavour.cuda else variables


def _cuda_environment(build: Build, mapped: str) -> dict[str, str]:
    programs = build.inside(build.root / "toolchain" / f"nvcc-{build.toolkit_version}" / "bin")
    # Build scripts would each start nvcc on half the cores; the wrapper's slots limit all of them together.
    threads = str(build.parallel.nvcc)
    return {
        "PATH": build_path(build.inside(build.rust.bin), programs),
        "NVCC": str(programs / "nvcc"),
        "CUDAFORGE_HOME": str(build.inside(build.root / "cudaforge")),
        "CUDA_COMPUTE_CAP": build.flavour.compute_cap,
        "CUDAFORGE_THREADS": threads,
        "RAYON_NUM_THREADS": threads,
        "MISTRALRS_RPM_PREFIX_MAP": mapped,
        # Some crate reads each of these; cudarc searches only below them once one is set.
        **dict.fromkeys(
            ("CUDA_PATH", "CUDA_HOME", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"), str(build.inside(build.toolkit))
        ),
    }


def download_environment(build: Build) -> dict[str, str]:
    """The environment of the downloads, which run on the host. No compile reads its flags."""
    outside = environment(replace(build, protected=False))
    return outside | {"HOME": str(build.root / "home"), "RUSTFLAGS": build.rustflags}


def _incremental(build: Build) -> list[str]:
    """Options instead of CARGO_INCREMENTAL, which sccache would hash: other people's crates stay cached.

    Build scripts are never incremental, since they own the folders of compiled kernels.
    """
    if not build.incremental:
        return ["--config", "build.incremental=false"]
    profile = "profile.release"
    return ["--config", f"{profile}.incremental=true", "--config", f"{profile}.build-override.incremental=false"]


def build_argv(build: Build, *, locked: bool) -> list[str]:
    """cargo's command line. The target directory is an option since sccache hashes every CARGO_ variable."""
    return [
        str(build.inside(build.rust.bin / "cargo")), "build", "--release", "--offline", *_incremental(build),
        *(["--locked"] if locked else []),
        "--package", build.package, "--bin", build.binary,
        "--target-dir", str(build.target), "--jobs", str(build.parallel.jobs), "--timings",
        *(["--features", " ".join(build.flavour.features)] if build.flavour.features else []),
        "--message-format", "json-render-diagnostics",
    ]  # fmt: skip
