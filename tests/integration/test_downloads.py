"""Addresses of missing dependencies get a request before a build: the real git and cargo."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline.base.environment import PROXIES
from pipeline.base.lock import held
from pipeline.base.records import Source
from pipeline.check import downloads
from pipeline.check.downloads import Download, DownloadNeeds
from pipeline.check.trials import Trials
from pipeline.source.checkout import bring
from pipeline.source.manifest import Tree, look
from pipeline.source.mirrors import CUTLASS, Mirrors, cutlass_folder, place_registry
from pipeline.toolchain.rust import Rust, find_rust
from support.ports import free_port

LOCK = """\
version = 4

[[package]]
name = "member"
version = "1.0.0"
dependencies = ["helper"]

[[package]]
name = "helper"
version = "1.0.0"
source = "git+{url}#{commit}"
"""


CRATE = {"name": "cfg-if", "vers": "1.0.0", "deps": [], "cksum": "0" * 64, "features": {}, "yanked": False}


def commit(folder: Path, **files: str) -> str:
    """Make ``folder`` a repository with these files (names have "__" for "/"); returns the commit."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    own = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "-C", folder]
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", folder], check=True)
    subprocess.run([*own, "add", "."], check=True)
    subprocess.run([*own, "commit", "--quiet", "--message=one"], check=True)
    return subprocess.run([*own, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def brought(root: Path, source: Source, package: str, rust: Rust | None) -> Tree:
    """What cargo finds of a commit, which the checkout has then."""
    assert rust
    cargo, checkout = rust.bin / "cargo", root / "src"
    return bring(checkout, source, root / "lock", lambda: look(checkout, source.commit, package, cargo))


@pytest.fixture
def needs(tmp_path: Path) -> DownloadNeeds:
    """An upstream with one crate from another git repository; no dependency is fetched yet."""
    helper = tmp_path / "helper"
    there = commit(helper, **{"Cargo.toml": '[package]\nname = "helper"\nversion = "1.0.0"\n', "src__lib.rs": ""})
    manifest = (
        f'[package]\nname = "member"\nversion = "1.0.0"\n[dependencies]\nhelper = {{ git = "file://{helper}" }}\n'
    )
    upstream = tmp_path / "upstream"
    files = {
        "Cargo.toml": '[workspace]\nmembers = ["member"]\nresolver = "2"\n',
        "member__src__main.rs": "fn main() {}\n",
    }
    lock = LOCK.format(url=f"file://{helper}", commit=there)
    here = commit(upstream, **files, member__Cargo__toml="", **{"member__Cargo.toml": manifest, "Cargo.lock": lock})
    source = Source(f"file://{upstream}", "main", "branch", here, 1, "1.0.0", "1.0.0")
    root = tmp_path / "builder"
    rust = find_rust()
    tree = brought(root, source, "member", rust)
    path = f"{rust.bin}:/usr/bin:/bin"
    return DownloadNeeds(root, root / "src", source, "member", tree, rust, path, Mirrors(), compute_cap="", ask=False)


def results(needs: DownloadNeeds) -> dict[str, tuple[str, bool]]:
    """The value that each check found, and whether it fits."""
    trials = Trials(needs.root / "cache" / "trials.json")
    return {finding.check: (finding.found, finding.fits) for finding in downloads.check(needs, trials)}


def test_only_missing_dependencies_cause_requests(needs: DownloadNeeds, tmp_path: Path) -> None:
    helper = tmp_path / "helper"
    address = f"git file://{helper}"
    assert results(needs) == {address: ("answers", True)}
    helper.rename(tmp_path / "gone")
    (found, fits), *rest = results(needs).values()
    assert (fits, rest) == (False, [])
    assert found.startswith("fatal:")
    # A mirror gets the request instead.
    mirrors = Mirrors({f"file://{tmp_path}/helper": f"file://{tmp_path}/gone"})
    assert results(replace(needs, mirrors=mirrors)) == {f"git file://{tmp_path}/gone": ("answers", True)}

    (tmp_path / "gone").rename(helper)
    assert needs.rust
    fetch = [needs.rust.bin / "cargo", "fetch", "--locked", "--manifest-path", needs.root / "src/Cargo.toml"]
    home = needs.root / "cargo"
    subprocess.run(fetch, check=True, env={"PATH": needs.path, "CARGO_HOME": str(home), "HOME": str(tmp_path)})
    helper.rename(tmp_path / "gone")
    assert results(needs) == {"downloads": (downloads.HERE, True)}
    # The doctor makes the requests anyway, and the check fits.
    doctor = results(replace(needs, ask=True))
    assert doctor[f"git {needs.source.url}"] == ("answers", True)
    found, fits = doctor[address]
    assert fits
    assert found.startswith(f"{downloads.HERE} (fatal:")
    # A dependency that was deleted counts as missing.
    shutil.rmtree(home / "git")
    assert not results(needs)[address][1]


def test_a_checkout_that_another_build_holds_stays_as_it_is(needs: DownloadNeeds) -> None:
    with held(needs.root / "lock"):
        assert results(needs) == {"crates": ("not checked: another build is running here", True)}
    assert not (needs.root / "src" / "Cargo.toml").exists()


@pytest.mark.parametrize(
    ("spoil", "found", "remedy"),
    [
        (
            lambda lock: "<<<<<<< HEAD\n" + lock,
            "failed to parse lock file at: .*key with no value",
            "no cargo reads it",
        ),
        (
            lambda lock: lock.replace("version = 4", "version = 9"),
            "lock file version `9` was found",
            "Use a newer Rust",
        ),
    ],
)
def test_a_lock_that_cargo_cannot_read_is_shown_with_cargos_reason(
    needs: DownloadNeeds, tmp_path: Path, spoil: Callable[[str], str], found: str, remedy: str
) -> None:
    upstream = tmp_path / "upstream"
    text = spoil((upstream / "Cargo.lock").read_text())
    source = replace(needs.source, commit=commit(upstream, **{"Cargo.lock": text}))
    tree = brought(needs.root, source, "member", needs.rust)
    spoilt = replace(needs, source=source, tree=tree, locked="prefer")
    (finding,) = downloads.check(spoilt, Trials(tmp_path / "trials.json"))
    assert (finding.check, finding.fits) == ("Cargo.lock", False)
    assert re.search(found, finding.found)
    assert remedy in finding.remedy


def test_a_lock_that_does_not_fit_is_found_by_cargo_where_its_crates_are_here(
    needs: DownloadNeeds, tmp_path: Path
) -> None:
    """Names and versions are the same; from where they come only cargo compares."""
    assert needs.rust
    words = [needs.rust.bin / "cargo", "fetch", "--manifest-path", tmp_path / "upstream/Cargo.toml"]
    home = needs.root / "cargo"
    subprocess.run(words, check=True, env={"PATH": needs.path, "CARGO_HOME": str(home), "HOME": str(tmp_path)})
    manifest = (tmp_path / "upstream/member/Cargo.toml").read_text()
    other = manifest.replace(" }", ', branch = "main" }')
    source = replace(needs.source, commit=commit(tmp_path / "upstream", **{"member__Cargo.toml": other}))
    tree = brought(needs.root, source, "member", needs.rust)
    assert tree.misfit == "", "the names fit"
    shown = results(replace(needs, source=source, tree=tree))
    assert not shown["Cargo.lock"][1], shown
    assert "--locked was passed" in shown["Cargo.lock"][0]


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_crate_registry_must_serve_config_json(tmp_path: Path) -> None:
    with served(tmp_path) as registry:
        assert downloads.registry_answer(registry) == "HTTP 404"
        (tmp_path / "config.json").write_text("<html>an error page</html>")
        assert downloads.registry_answer(registry) == "it answers, but is no crate registry"
        (tmp_path / "config.json").write_text('{"dl": "https://crates.example.org/dl"}')
        assert downloads.registry_answer(registry) == ""
        assert downloads.registry_answer(f"sparse+{registry}") == ""
    dead = f"http://127.0.0.1:{free_port()}/"
    assert "refused" in downloads.registry_answer(dead)
    assert downloads.registry_answer(str(tmp_path)) == ""
    assert downloads.registry_answer(str(tmp_path / "none")) == "there is no such folder"
    (finding,) = downloads.check_downloads([Download("crate registry", dead, here=False)])
    assert not finding.fits
    assert "or name a mirror (cargo_registry_mirror)" in finding.remedy


def test_cargo_itself_reports_whether_it_reaches_its_registry(tmp_path: Path) -> None:
    rust, home = find_rust(), tmp_path / "cargo"
    path = f"{rust.bin}:/usr/bin:/bin"
    assert downloads.cargo_answer(rust, home, path) == ""
    dead = f"http://127.0.0.1:{free_port()}"
    shutil.rmtree(home)
    home.mkdir()
    (home / "config.toml").write_text(
        f'[source.crates-io]\nreplace-with = "dead"\n[source.dead]\nregistry = "sparse+{dead}/"\n'
    )
    (finding,) = downloads.check_downloads(
        [Download(downloads.REGISTRY, downloads.CRATES_IO, here=False)],
        lambda _: downloads.cargo_answer(rust, home, path),
    )
    assert finding.check == "crate registry crates.io"
    assert "onnect" in finding.found
    assert not finding.fits


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize("spelling", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_the_check_cargo_and_git_use_the_same_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    """The web server acts as a proxy: a request holds the whole address, which becomes a path of the folder."""
    registry = "http://registry.lair.test/index/"
    index = tmp_path / "http:/registry.lair.test/index"
    (index / "cf/g-").mkdir(parents=True)
    (index / "config.json").write_text('{"dl": "https://crates.lair.test"}')
    (index / "cf/g-/cfg-if").write_text(json.dumps(CRATE))
    rust, home = find_rust(), tmp_path / "cargo"
    home.mkdir()
    place_registry(home, registry)
    with served(tmp_path) as proxy:
        monkeypatch.setenv(spelling, proxy)
        assert downloads.registry_answer(registry) == ""
        assert downloads.cargo_answer(rust, home, f"{rust.bin}:/usr/bin") == ""
        # The proxy's answer: there is no such repository.
        assert "not found" in downloads.git_answer("http://git.lair.test/repository")
        monkeypatch.setenv("NO_PROXY", "other, .lair.test")
        assert re.search("Name or service not known|name resolution", downloads.registry_answer(registry))
        (index / "cf/g-/cfg-if").unlink()
        assert "resolve host" in downloads.cargo_answer(rust, home, f"{rust.bin}:/usr/bin")
        assert "resolve host" in downloads.git_answer("http://git.lair.test/repository")


@pytest.mark.usefixtures("no_proxies")
def test_a_registry_behind_a_proxy_that_only_cargo_can_use_is_asked_by_cargo(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    rows = [Download("crate registry", "https://registry.lair.test/", here=False)]

    def cargo(registry: str) -> str:
        asked.append(registry)
        return ""

    monkeypatch.setenv("ALL_PROXY", "socks5h://127.0.0.1:1")
    (finding,) = downloads.check_downloads(rows, cargo)
    assert (finding.fits, asked) == (True, ["https://registry.lair.test/"])


def test_this_machine_is_reached_without_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a proxy 127.0.0.1 is another host."""
    (tmp_path / "config.json").write_text('{"dl": "x"}')
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with served(tmp_path) as registry:
        assert downloads.registry_answer(registry) == ""
        assert "not found" in downloads.git_answer(f"{registry}repository")


def test_an_account_in_an_address_is_not_shown() -> None:
    address = f"http://builder:open-sesame@127.0.0.1:{free_port()}/repo.git"
    (finding,) = downloads.check_downloads([Download("git", address, here=False)])
    assert not finding.fits
    assert "open-sesame" not in f"{finding}"


def test_a_shared_address_is_requested_once_and_required_if_one_dependency_requires_it(tmp_path: Path) -> None:
    missing = f"file://{tmp_path}/none"
    rows = [Download("git", missing, here=False), Download("git", missing, here=True)]
    (finding,) = downloads.check_downloads(rows)
    assert not finding.fits


def test_cutlass_is_requested_if_a_build_script_names_a_missing_commit(needs: DownloadNeeds, tmp_path: Path) -> None:
    cutlass, upstream = tmp_path / "cutlass", tmp_path / "upstream"
    named = commit(cutlass, include__cutlass__h="")
    # The second commit is Hopper's alone: nobody has it.
    script = (
        f'fn main() {{ let compute_cap = b.get_compute_cap(); builder.with_cutlass(Some("{named}"));\n'
        f'if compute_cap == 90 {{ other.with_cutlass(Some("{"e" * 40}")); }} }}\n'
    )
    source = replace(needs.source, commit=commit(upstream, **{"member__build.rs": script}))
    tree = brought(needs.root, source, "member", needs.rust)
    mirrors = Mirrors({CUTLASS: f"file://{tmp_path}/gone"})
    gpu = replace(needs, source=source, tree=tree, mirrors=mirrors, compute_cap="89")
    address = f"git file://{tmp_path}/gone"
    assert not results(gpu)[address][1]
    assert address not in results(replace(gpu, compute_cap=""))
    folder = cutlass_folder(needs.root / "cudaforge", named)
    subprocess.run(["git", "clone", "--quiet", cutlass, folder], check=True)
    (folder / "include").mkdir(exist_ok=True)
    assert address not in results(gpu)
    assert not results(replace(gpu, compute_cap="90"))[address][1]
    # The operator's list of commits replaces it.
    other = Mirrors(mirrors.git, cutlass_commits=("f" * 40,))
    assert not results(replace(gpu, mirrors=other))[address][1]
