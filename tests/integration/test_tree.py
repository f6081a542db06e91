"""What a commit's workspace holds is cargo's own answer, read from the repository: no checkout moves, nothing runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.git import git
from pipeline.check.commit import check_files, check_lock, check_manifests
from pipeline.source.checkout import bring, current_commit, move
from pipeline.source.manifest import ManifestRefused, Tree, look
from pipeline.source.upstream import resolve
from pipeline.toolchain.rust import find_rust
from support.commits import Link, Submodule, commit, pointer

CARGO = find_rust().bin / "cargo"
MAIN = "fn main() {}\n"


def crate(name: str, more: str = "") -> str:
    return f'[package]\nname = "{name}"\nversion = "1.0.0"\n{more}'


def seen(tmp_path: Path, files: dict[str, str | Link | Submodule], features: tuple[str, ...] = ()) -> Tree:
    """The package "tool" of a commit with these files."""
    repository = tmp_path / "repository.git"
    return look(repository, commit(repository, files), "tool", CARGO, features)


def test_another_commit_is_read_while_one_is_checked_out(upstream: Path, tmp_path: Path) -> None:
    folder = tmp_path / "src"
    old = resolve(f"file://{upstream}", tmp_path / "mirror", kind="tag", version="0.9.1")
    new = resolve(f"file://{upstream}", tmp_path / "mirror", kind="tag", version="0.9.2")
    move(folder, old)
    tree = bring(
        folder, new, tmp_path / "lock", lambda: look(folder, new.commit, "mistralrs-cli", CARGO, ("cuda",))
    )  # fmt: skip
    assert (tree.crate_version, tree.rust_version, tree.commit) == ("0.9.2", "1.88", new.commit)
    assert set(tree.features) == {"cuda", "cudnn", "flash-attn", "nccl"}
    assert tree.lock == git("rev-parse", f"{new.commit}:Cargo.lock", repository=folder).strip()
    assert (tree.misfit, tree.lfs, tree.submodules, tree.beside) == ("", (), (), ())
    assert "mistralrs-quant/build.rs" in tree.scripts
    assert current_commit(folder) == old.commit
    assert look(folder, old.commit, "mistralrs-cli", CARGO).crate_version == "0.9.1"


@pytest.mark.parametrize(
    "files",
    [
        {"Cargo.toml": '[workspace]\nmembers = ["./x/"]\n', "x/Cargo.toml": crate("tool")},
        {"Cargo.toml": '[workspace]\nmembers = ["crates//x"]\n', "crates/x/Cargo.toml": crate("tool")},
        {
            "Cargo.toml": '[workspace]\nmembers = ["crates/*"]\nexclude = ["crates/old"]\n',
            "crates/x/Cargo.toml": crate("tool"),
            "crates/old/Cargo.toml": crate("tool", "broken = \n"),
            "crates/README.md": "no crate\n",
        },
        {
            "Cargo.toml": '[workspace]\nmembers = ["a"]\n',
            "a/Cargo.toml": crate("a", '[dependencies]\ntool = { path = "../deep/x" }\n'),
            "deep/x/Cargo.toml": crate("tool"),
        },
        {"Cargo.toml": crate("tool")},
        {"Cargo.toml": crate("tool", "[workspace]\n")},
        {"Cargo.toml": '[workspace]\nmembers = ["x"]\n', "x": Link("y"), "y/Cargo.toml": crate("tool")},
    ],
    ids=["./x/", "double slash", "glob and exclude", "path dependency", "no workspace", "top package", "link"],
)
def test_every_spelling_that_cargo_takes_is_found(tmp_path: Path, files: dict[str, str | Link]) -> None:
    sources = {path.replace("Cargo.toml", "src/main.rs"): MAIN for path in files if path.endswith("Cargo.toml")}
    # A configuration of the commit would end any cargo that reads it.
    tree = seen(tmp_path, {**files, **sources, ".cargo/config.toml": "no TOML\n"})
    assert tree.crate_version == "1.0.0"


def test_a_package_inherits_and_has_the_features_of_its_optional_dependencies(tmp_path: Path) -> None:
    manifest = (
        '[package]\nname = "tool"\nversion.workspace = true\nrust-version.workspace = true\n'
        '[dependencies]\nfast = { version = "1", optional = true }\n'
    )
    workspace = '[workspace]\nmembers = ["x"]\n[workspace.package]\nversion = "7.0.0"\nrust-version = "1.90"\n'
    files = {"Cargo.toml": workspace, "x/Cargo.toml": manifest, "x/src/main.rs": MAIN}
    tree = seen(tmp_path, files)
    assert (tree.crate_version, tree.rust_version, tree.features) == ("7.0.0", "1.90", ("fast",))
    assert tree.misfit == "there is none"
    with pytest.raises(PipelineError, match=r"no package server .*Set upstream_package to .* the binary: tool"):
        look(tmp_path / "repository.git", tree.commit, "server", CARGO)


def test_manifests_that_cargo_refuses_are_shown_with_cargos_reason(tmp_path: Path) -> None:
    with pytest.raises(ManifestRefused) as caught:
        seen(tmp_path, {"Cargo.toml": '[workspace]\nmembers = ["x"]\n', "x/Cargo.toml": "[package\n"})
    text = str(caught.value)
    assert "cargo refuses upstream's manifests: error: unclosed table, expected `]` | --> x/Cargo.toml:1:9" in text
    assert "tree-of" not in text
    assert "Report it upstream" in check_manifests(caught.value).remedy
    # A new edition is the builder's matter.
    with pytest.raises(ManifestRefused) as caught:
        seen(tmp_path, {"Cargo.toml": crate("tool", 'edition = "2099"\n'), "src/main.rs": MAIN})
    assert "Use a newer Rust" in check_manifests(caught.value).remedy


def test_a_manifest_reads_nothing_of_the_host(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("open-sesame\n")
    # A device has no end, and "up" leads to the tree's top.
    for target in (
        str(secret),
        f"/proc/self/root{secret}",
        "/dev/zero",
        "../../dev/zero",
        "up/../dev/zero",
        "Cargo.toml",
    ):
        files = {"x/up": Link(".."), "x/Cargo.toml": Link(target)}
        with pytest.raises(ManifestRefused) as caught:
            seen(tmp_path, {"Cargo.toml": '[workspace]\nmembers = ["x"]\n', **files})
        assert "open-sesame" not in str(caught.value)
        assert "failed to read `x/Cargo.toml`" in str(caught.value)
    member = f'[workspace]\nmembers = ["..{tmp_path}"]\n'
    (tmp_path / "Cargo.toml").write_text(crate("tool"))
    with pytest.raises(ManifestRefused, match="failed to load manifest"):
        seen(tmp_path, {"Cargo.toml": member})


@pytest.mark.parametrize("path", ["../x", ".git/config", "a/../x"])
def test_a_tree_that_git_would_not_check_out_is_refused(tmp_path: Path, path: str) -> None:
    repository = tmp_path / "repository.git"
    made = commit(repository, {"Cargo.toml": crate("tool"), "src/main.rs": MAIN})
    blob = git("rev-parse", f"{made}:Cargo.toml", repository=repository).strip()
    tree = ""
    # git mktree takes a name as it is, one folder at a time.
    for name in reversed(path.split("/")):
        row = f"040000 tree {tree}\t{name}\n" if tree else f"100644 blob {blob}\t{name}\n"
        tree = git("mktree", repository=repository, stdin=row).strip()
    with pytest.raises(PipelineError, match="the commit's tree is damaged at .*Report it upstream"):
        look(repository, tree, "tool", CARGO)


def test_files_outside_of_the_commit_are_refused_where_the_build_reads_them(tmp_path: Path) -> None:
    files = {
        "Cargo.toml": '[workspace]\nmembers = ["tool", "engine", "bindings", "extra"]\n',
        "tool/Cargo.toml": crate(
            "tool",
            '[dependencies]\nengine = { path = "../engine" }\nextra = { path = "../extra", optional = true }\n'
            '[features]\ncuda = ["dep:extra"]\n',
        ),
        "tool/src/main.rs": MAIN,
        "engine/Cargo.toml": crate("engine", 'build = "../build/engine.rs"\n'),
        "engine/src/lib.rs": "",
        "engine/src/weights.bin": pointer(),
        "bindings/Cargo.toml": crate("bindings"),
        "bindings/src/lib.rs": "",
        "bindings/data.bin": pointer(),
        "extra/Cargo.toml": crate("extra", 'build = "none.rs"\n'),
        "extra/src/lib.rs": "",
        "extra/third_party/cutlass": Submodule(),
        "chat_templates/default.json": pointer(),
        "docs/demo.gif": pointer(),
        "tool/\x1b[2J": pointer(),
        "docs/pointers.md": "A pointer begins so:\n" + pointer(),
        "examples/data": Submodule(),
        # Its script lies elsewhere, and another one nowhere.
        "build/engine.rs": "fn main() {}\n",
    }
    tree = seen(tmp_path, files)
    assert tree.lfs == ("chat_templates/default.json", "engine/src/weights.bin", "tool/\x1b[2J")
    assert tree.submodules == ()
    assert set(tree.beside) == {"bindings/data.bin", "docs/demo.gif", "examples/data", "extra/third_party/cutlass"}
    (finding,) = check_files(tree)
    assert (finding.check, finding.fits) == ("Git LFS", False)
    assert finding.found == "chat_templates/default.json, engine/src/weights.bin, tool/ [2J"
    assert "git lfs migrate export" in finding.remedy
    # A build script may name a folder beside its package.
    script = 'fn main() {{ include("../{}/src"); with_data(); }}'
    named = {"build/engine.rs": script.format("examples/data"), "examples/more": Submodule()}
    assert seen(tmp_path, {**files, **named}).submodules == ("examples/data",)
    # A feature brings a package that has a submodule.
    tree = seen(tmp_path, files, ("cuda",))
    assert tree.submodules == ("extra/third_party/cutlass",)
    assert tree.scripts == {"build/engine.rs": ["default"]}
    assert [f.check for f in check_files(tree)] == ["Git LFS", "submodules"]
    del files["engine/src/weights.bin"], files["chat_templates/default.json"], files["tool/\x1b[2J"]
    (finding,) = check_files(seen(tmp_path, files))
    assert finding.fits
    assert "not fetched, and not built: bindings/data.bin, docs/demo.gif, examples/data and 1 more" in finding.found


def test_a_submodule_as_a_member_is_named(tmp_path: Path) -> None:
    files = {"Cargo.toml": '[workspace]\nmembers = ["tool", "vendor/engine"]\n', "vendor/engine": Submodule()}
    with pytest.raises(ManifestRefused) as caught:
        seen(tmp_path, {**files, "tool/Cargo.toml": crate("tool"), "tool/src/main.rs": MAIN})
    finding = check_manifests(caught.value)
    assert "failed to load manifest for workspace member `vendor/engine`" in finding.found
    assert finding.remedy.startswith("Its submodules are not fetched (vendor/engine)")


def test_a_stale_lock_fails_a_release_before_anything_is_compiled() -> None:
    finding = check_lock("it lacks engine", "always")
    assert (finding.fits, finding.check, finding.found) == (False, "Cargo.lock", "it lacks engine")
    assert "Report it upstream" in finding.remedy
    assert check_lock("it lacks engine", "prefer").warning
    assert check_lock("", "always").fits
