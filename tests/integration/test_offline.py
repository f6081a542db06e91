"""Mirrors, and builds without a network: real cargo and git in an empty network namespace.

The workspace depends on one crate from crates.io and on one from https://git.invalid/, an address that cannot exist
(RFC 2606): all downloads come from the mirrors. The tests create both mirrors, a small repository in place of CUTLASS,
and a crate that looks for it like cudaforge.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.git import git
from pipeline.base.records import Flavour, Source, sha256_file
from pipeline.build import cargo_build
from pipeline.build.fetch import fetch
from pipeline.build.inputs import Build, environment
from pipeline.source import checkout
from pipeline.source.mirrors import CUTLASS, Mirrors, cutlass_folder, has_cutlass, place_registry, seed_cutlass
from pipeline.source.upstream import resolve
from pipeline.toolchain.rust import find_rust
from support.builds import CPU, program_environment

# A flavour that requires CUTLASS and runs no nvcc: a folder stands in for its toolkit.
KERNELS = Flavour("kernels", "RTX 40", "8.9", "13.0", ("cuda",), published=False)

LEAF = """\
[package]
name = "offline-leaf"
version = "0.1.0"
edition = "2021"
license = "MIT"
description = "x"
"""
TWIG = """\
[package]
name = "offline-twig"
version = "0.1.0"
edition = "2021"
"""
WORKSPACE = """\
[workspace]
members = ["app", "kernels", "forge"]
resolver = "2"
"""
APP = """\
[package]
name = "app"
version = "0.9.2"
edition = "2021"

[features]
cuda = ["dep:kernels"]

[dependencies]
offline-leaf = "0.1"
offline-twig = {{ git = "https://git.invalid/group/twig.git", rev = "{twig}" }}
kernels = {{ path = "../kernels", optional = true }}
"""
# Without cargo's own heading: cargo would rewrite it, and a build must not.
LOCK = """\
version = 4

[[package]]
name = "app"
version = "0.9.2"
dependencies = [
 "kernels",
 "offline-leaf",
 "offline-twig",
]

[[package]]
name = "cudaforge"
version = "0.1.4"

[[package]]
name = "kernels"
version = "0.1.0"
dependencies = [
 "cudaforge",
]

[[package]]
name = "offline-leaf"
version = "0.1.0"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "{leaf}"

[[package]]
name = "offline-twig"
version = "0.1.0"
source = "git+https://git.invalid/group/twig.git?rev={twig}#{twig}"
"""
# cudaforge 0.1.4's check before it clones (src/dependency.rs).
FORGE = """\
pub struct KernelBuilder;
impl KernelBuilder {
    pub fn with_cutlass(self, commit: Option<&str>) -> Self {
        let home = std::env::var("CUDAFORGE_HOME").unwrap();
        let folder = format!("{home}/git/checkouts/cutlass-{}", &commit.unwrap()[..16]);
        assert!(std::path::Path::new(&folder).join("include").exists(), "would clone to {folder}");
        let git = std::process::Command::new("git").args(["rev-parse", "HEAD"]).current_dir(&folder).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&git.stdout).trim(), commit.unwrap());
        self
    }
}
"""


def crate(folder: Path, manifest: str, source: str) -> None:
    (folder / "src").mkdir(parents=True)
    (folder / "Cargo.toml").write_text(manifest)
    (folder / "src/lib.rs").write_text(source)


def repository(folder: Path) -> str:
    """Make a folder a git repository that serves partial clones; returns its commit."""
    git("init", "--quiet", folder)
    git("config", "uploadpack.allowFilter", "true", repository=folder)
    return commit(folder, "v0.9.2")


def commit(folder: Path, tag: str) -> str:
    git("add", "--all", repository=folder)
    who = {f"GIT_{role}_{what}": "x@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    git("commit", "--quiet", "--message", tag, repository=folder, env=who)
    git("tag", tag, repository=folder)
    return git("rev-parse", "HEAD", repository=folder).strip()


class Site:
    """A registry and a git server's folder on loopback, with a workspace that needs both."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []
        self._publish_leaf()
        crate(folder / "git/group/twig.git", TWIG, 'pub fn twig() -> &\'static str { "twig" }')
        self.twig = repository(folder / "git/group/twig.git")
        crate(folder / "git/NVIDIA/cutlass.git", TWIG, "")
        for name in ("include/cutlass", "tools/util/include", "docs"):
            (folder / "git/NVIDIA/cutlass.git" / name).mkdir(parents=True)
            (folder / "git/NVIDIA/cutlass.git" / name / "a.h").write_text(name)
        self.cutlass = repository(folder / "git/NVIDIA/cutlass.git")
        self._make_workspace()
        handler = partial(Handler, self.asked, directory=str(folder / "registry"))
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        (folder / "registry/config.json").write_text(json.dumps({"dl": f"{self.url}/{{crate}}-{{version}}.crate"}))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def mirrors(self) -> Mirrors:
        prefixes = ("https://git.invalid/", "https://github.com/")
        return Mirrors(dict.fromkeys(prefixes, f"file://{self.folder}/git/"), f"sparse+{self.url}/")

    def _publish_leaf(self) -> None:
        crate(self.folder / "leaf", LEAF, 'pub fn leaf() -> &\'static str { "leaf" }')
        rust = find_rust()
        words = [rust.bin / "cargo", "package", "--quiet", "--no-verify", "--offline"]
        variables = {"PATH": f"{rust.bin}:/usr/bin:/bin", "CARGO_HOME": str(self.folder / "cargo")}
        subprocess.run(words, cwd=self.folder / "leaf", env=variables, check=True)
        self.crate = self.folder / "leaf/target/package/offline-leaf-0.1.0.crate"
        row = {"name": "offline-leaf", "vers": "0.1.0", "deps": [], "features": {}, "yanked": False}
        line = json.dumps(row | {"cksum": sha256_file(self.crate)}) + "\n"
        for folder in ("registry/of/fl", "local/index/of/fl"):
            (self.folder / folder).mkdir(parents=True)
            (self.folder / folder / "offline-leaf").write_text(line)
        for folder in ("registry", "local"):
            shutil.copy(self.crate, self.folder / folder)
        with tarfile.open(self.crate) as archive:
            archive.extractall(self.folder / "vendored", filter="data")
        checksum = {"files": {}, "package": sha256_file(self.crate)}
        (self.folder / "vendored/offline-leaf-0.1.0/.cargo-checksum.json").write_text(json.dumps(checksum))

    def _make_workspace(self) -> None:
        folder = self.folder / "workspace"
        crate(folder / "forge", '[package]\nname = "cudaforge"\nversion = "0.1.4"\nedition = "2021"\n', FORGE)
        kernels = '[package]\nname = "kernels"\nversion = "0.1.0"\nedition = "2021"\n'
        crate(folder / "kernels", f'{kernels}[build-dependencies]\ncudaforge = {{ path = "../forge" }}\n', "")
        (folder / "kernels/build.rs").write_text(
            f'const CUTLASS_COMMIT: &str = "{self.cutlass}";\n'
            "fn main() { cudaforge::KernelBuilder.with_cutlass(Some(CUTLASS_COMMIT)); }\n"
        )
        crate(folder / "app", APP.format(twig=self.twig), "")
        (folder / "app/src/lib.rs").unlink()
        (folder / "app/src/main.rs").write_text(
            'fn main() { println!("{} {}", offline_leaf::leaf(), offline_twig::twig()); }\n'
        )
        (folder / "Cargo.toml").write_text(WORKSPACE)
        (folder / "Cargo.lock").write_text(LOCK.format(leaf=sha256_file(self.crate), twig=self.twig))
        (folder / ".cargo").mkdir()
        # Without a network one attempt is enough.
        (folder / ".cargo/config.toml").write_text("[net]\nretry = 0\n")
        repository(folder)

    def source(self, folder: Path) -> Source:
        return resolve(f"file://{self.folder}/workspace", folder / "upstream.git", kind="tag")

    def describe(self, root: Path, **change: object) -> Build:
        (self.folder / "toolkit/bin").mkdir(parents=True, exist_ok=True)
        (self.folder / "toolkit/bin/nvcc").touch(mode=0o755)
        build = Build(
            root=root, source=self.source(root.parent), flavour=CPU, package="app", binary="app",
            rust=find_rust(), toolkit=str(self.folder / "toolkit"), toolkit_version="13.0.88",
            rustflags="-C target-cpu=x86-64", locked="always", mirrors=self.mirrors,
        )  # fmt: skip
        return dataclasses.replace(build, **change)


class Handler(SimpleHTTPRequestHandler):
    def __init__(self, asked: list[str], *arguments: object, **words: object) -> None:
        self.asked = asked
        super().__init__(*arguments, **words)

    def log_request(self, code: int | str = "-", _size: int | str = "-") -> None:
        self.asked.append(f"{int(code)} {self.path}")

    def log_message(self, *_: object) -> None:
        pass


WITHOUT_NETWORK = """
import json
import sys
from pathlib import Path
from pipeline.build import cargo_build
from pipeline.build.inputs import Build
from pipeline.base import errors, records
from pipeline.source import mirrors
from pipeline.toolchain import rust
data = json.loads(sys.argv[1])
data["source"], data["flavour"] = records.Source(**data["source"]), records.Flavour.from_dict(data["flavour"])
data["root"], data["mirrors"] = Path(data["root"]), mirrors.Mirrors(**data["mirrors"])
try:
    artifact = cargo_build.make(Build(rust=rust.find_rust(), **data), Path(sys.argv[2]))
    print(artifact.folder)
except errors.PipelineError as error:
    print(error)
    sys.exit(3)
"""


def build_without_network(build: Build, log: Path) -> subprocess.CompletedProcess[str]:
    """A build in a network namespace of its own, where even loopback is down."""
    names = ("package", "binary", "toolkit", "toolkit_version", "rustflags", "locked")
    data = {name: getattr(build, name) for name in names} | {
        "root": str(build.root),
        "source": build.source.to_dict(),
        "flavour": build.flavour.to_dict(),
        "mirrors": dataclasses.asdict(build.mirrors),
    }
    words = ["unshare", "--net", *(["--map-root-user"] if os.geteuid() else [])]
    words += [sys.executable, "-c", WITHOUT_NETWORK, json.dumps(data), str(log)]
    return subprocess.run(words, env=program_environment(), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.server.shutdown()


@pytest.fixture(scope="module")
def seeded(site, tmp_path_factory):
    """A builder that has built both flavours through the mirrors; the second build and its artifact."""
    root = tmp_path_factory.mktemp("seeded") / "builder"
    cargo_build.make(site.describe(root), root / "log/cpu.log")
    build = site.describe(root, flavour=KERNELS)
    artifact = cargo_build.make(build, root / "log/kernels.log")
    return build, artifact


def test_crates_and_git_come_from_the_mirrors_and_the_lock_stays(site, seeded):
    build, artifact = seeded
    output = subprocess.run([Path(artifact.folder) / "app"], capture_output=True, text=True, check=True).stdout
    assert output == "leaf twig\n"
    assert artifact.locked
    assert git("status", "--porcelain", repository=build.checkout) == ""
    assert "200 /offline-leaf-0.1.0.crate" in site.asked
    assert not [line for line in site.asked if not line.startswith("200")]


def test_crates_are_below_the_name_of_the_replacing_registry(seeded):
    """The name is part of the compile cache's keys (docs/provision.md)."""
    build, _ = seeded
    folders = [path.name for path in (build.root / "cargo/registry/src").iterdir()]
    assert len(folders) == 1
    assert folders[0].startswith("127.0.0.1-")


def test_cutlass_has_the_commit_that_the_build_script_names(site, seeded):
    build, _ = seeded
    folder = cutlass_folder(build.root / "cudaforge", site.cutlass)
    assert folder.name == f"cutlass-{site.cutlass[:16]}"
    assert git("rev-parse", "HEAD", repository=folder).strip() == site.cutlass
    assert (folder / "include/cutlass/a.h").is_file()
    assert (folder / "tools/util/include/a.h").is_file()
    assert not (folder / "docs").exists()
    assert f"CUTLASS {site.cutlass} for kernels 0.1.0: fetched" in (build.root / "log/kernels.log").read_text()
    assert "CUTLASS" not in (build.root / "log/cpu.log").read_text()


def test_a_builder_with_all_downloads_builds_without_a_network(site, seeded, tmp_path):
    build, _ = seeded
    root = tmp_path / "builder"
    shutil.copytree(build.root, root, symlinks=True)
    shutil.rmtree(root / "target")
    shutil.rmtree(root / "artifacts")
    asked = len(site.asked)
    done = build_without_network(dataclasses.replace(build, root=root), tmp_path / "log")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (Path(done.stdout.strip()) / "app").is_file()
    log = (tmp_path / "log").read_text()
    assert "Compiling offline-leaf" in log
    assert "Compiling offline-twig" in log
    assert f"CUTLASS {site.cutlass} for kernels 0.1.0: is here" in log
    assert len(site.asked) == asked


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (
            "cargo/registry/[cs]*",
            ["the crates could not be fetched", "offline-leaf", "cargo_registry_mirror is sparse+http"],
        ),
        ("cargo/git", ["the crates could not be fetched", "https://git.invalid/group/twig.git", "resolve host"]),
        ("cudaforge", ["CUTLASS", "which kernels 0.1.0 needs, could not be fetched", "in git_mirrors"]),
    ],
)
def test_a_missing_download_is_named(site, seeded, tmp_path, lost, message):
    build, _ = seeded
    root = tmp_path / "builder"
    shutil.copytree(build.root, root, symlinks=True, ignore=shutil.ignore_patterns("artifacts"))
    for folder in root.glob(lost):
        shutil.rmtree(folder)
    without_git = Mirrors({}, build.mirrors.registry)
    done = build_without_network(dataclasses.replace(build, root=root, mirrors=without_git), tmp_path / "log")
    assert done.returncode == 3, done.stderr
    for text in message:
        assert text in done.stdout, done.stdout
    assert not (root / "artifacts").exists()
    assert lost != "cudaforge" or not list(root.glob("cudaforge/git/checkouts/*/"))


@pytest.fixture
def lone(site, tmp_path):
    """``fetch`` alone on an empty builder: a function of the mirrors."""
    root = tmp_path / "builder"
    checkout = site.folder / "workspace"

    def call(mirrors: Mirrors, flavour: Flavour = CPU) -> bool:
        build = site.describe(root, mirrors=mirrors, flavour=flavour)
        for name in ("home", "cargo"):
            (root / name).mkdir(parents=True, exist_ok=True)
        return fetch(
            checkout, build.rust.bin / "cargo", environment(build), "always", StringIO(),
            mirrors=mirrors, package="app", features=flavour.features,
        )  # fmt: skip

    return call, root


@pytest.mark.parametrize("kind", ["local", "vendored"])
def test_crates_may_come_from_a_folder(site, lone, kind):
    call, root = lone
    asked = len(site.asked)
    assert call(dataclasses.replace(site.mirrors, registry=str(site.folder / kind)))
    assert len(site.asked) == asked
    lock = git("status", "--porcelain", repository=site.folder / "workspace")
    assert lock == ""
    # Vendored crates are compiled in place.
    assert (root / "cargo/registry/src").exists() == (kind == "local")


def test_upstream_itself_comes_from_a_mirror_and_keeps_its_url(site, tmp_path, monkeypatch):
    for name, value in Mirrors({"https://git.invalid/": f"file://{site.folder}/"}).environment.items():
        monkeypatch.setenv(name, value)
    source = resolve("https://git.invalid/workspace", tmp_path / "upstream.git", kind="tag")
    assert source.url == "https://git.invalid/workspace"
    assert checkout.move(tmp_path / "src", source).commit == source.commit


def test_the_module_refuses_malformed_mirrors(site, tmp_path, run_module, monkeypatch):
    arguments = {
        "root": str(tmp_path / "builder"),
        "source": site.source(tmp_path).to_dict(),
        "flavour": CPU.to_dict(),
        "package": "app",
        "binary": "app",
        "rustflags": "-C target-cpu=x86-64",
        "trust": "release",
    }
    assert run_module("cargo_build", arguments | {"mirrors": {"registry": f"{site.url}/"}}, check=True)["changed"]
    refused = run_module("cargo_build", arguments | {"mirrors": {"registry": "crates"}}, check=True)
    assert "'crates' is neither a URL nor an absolute path (cargo_registry_mirror)" in refused["msg"]
    for name, value in {"COUNT": "1", "KEY_0": "url.mirrors/git.insteadOf", "VALUE_0": "https://git.invalid/"}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    refused = run_module("cargo_build", arguments, check=True)
    assert "'mirrors/git' is neither a URL nor an absolute path (git_mirrors, https://git.invalid/)" in refused["msg"]


def test_a_git_mirror_without_the_repository_is_named(site, lone):
    call, _ = lone
    git_only = Mirrors({"https://git.invalid/": f"{site.url}/nothing/"}, site.mirrors.registry)
    with pytest.raises(PipelineError) as caught:
        call(git_only)
    message = str(caught.value)
    assert f"fatal: repository '{site.url}/nothing/group/twig.git/' not found" in message
    assert f"git_mirrors sends https://git.invalid/ to {site.url}/nothing/" in message
    assert "https://git.invalid/group/twig.git" in message


def test_a_registry_mirror_without_the_index_is_named(site, lone):
    call, _ = lone
    with pytest.raises(PipelineError) as caught:
        call(dataclasses.replace(site.mirrors, registry=f"{site.url}/nothing/"))
    assert "failed to query replaced source registry `crates-io`" in str(caught.value)
    assert f"cargo_registry_mirror is {site.url}/nothing/" in str(caught.value)
    assert "git_mirrors" not in str(caught.value)


def test_a_cutlass_mirror_without_the_commit_is_named_and_leaves_nothing(site, lone):
    call, root = lone
    other = dataclasses.replace(site.mirrors, cutlass_commits=("f" * 40,))
    with pytest.raises(PipelineError, match=f"CUTLASS {'f' * 40}.*could not be fetched: fatal: .*") as caught:
        call(other, KERNELS)
    assert f"(file://{site.folder}/git/NVIDIA/cutlass.git)" in str(caught.value)
    assert "git_mirrors sends https://github.com/ to" in str(caught.value)
    assert not [path for path in (root / "cudaforge/git/checkouts").iterdir() if path.is_dir()]


def test_a_partial_cutlass_is_replaced_and_a_complete_one_kept(site, tmp_path):
    home = tmp_path / "cudaforge"
    folder = cutlass_folder(home, site.cutlass)
    (folder / "include").mkdir(parents=True)
    assert not has_cutlass(home, site.cutlass)
    assert seed_cutlass(home, site.cutlass, "a test", site.mirrors, {})
    assert has_cutlass(home, site.cutlass)
    before = folder.stat().st_ino
    assert not seed_cutlass(home, site.cutlass, "a test", Mirrors({CUTLASS: "file:///nowhere"}), {})
    assert folder.stat().st_ino == before


def test_cargos_configuration_follows_the_variable_and_a_foreign_one_stays(tmp_path):
    file = tmp_path / "config.toml"
    place_registry(tmp_path, "https://crates.example.org/index/")
    assert 'registry = "sparse+https://crates.example.org/index/"' in file.read_text()
    before = file.stat().st_mtime_ns
    place_registry(tmp_path, "https://crates.example.org/index/")
    assert file.stat().st_mtime_ns == before
    place_registry(tmp_path, "")
    assert not file.exists()
    file.write_text("[net]\nretry = 0\n")
    place_registry(tmp_path, "")
    with pytest.raises(PipelineError, match="configuration here that this project did not write.*config.toml"):
        place_registry(tmp_path, "https://crates.example.org/index/")
    assert file.read_text() == "[net]\nretry = 0\n"
