"""A compiler that was replaced after its installation is not used, and the message names it.

Trees are small ones, installed by the same code as the real toolchain (layout).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.toolchain import nvcc, verified
from pipeline.toolchain.layout import laid_out
from pipeline.toolchain.rust import find_rust
from pipeline.toolchain.sccache import STAMP, Wheel
from pipeline.toolchain.verified import changes, verify, verify_programs

BACKDOOR = "#!/bin/sh\necho backdoor >&2; exit 9\n"
PINS = f"sccache==1 --hash=sha256:{'0' * 64}\n"


def program(path: Path, text: str = "#!/bin/sh\nprintf 'release: 1.95.0\\n'\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A toolchain with nvcc, rustc, cargo, a library and a link."""
    folder = tmp_path / "toolchain/tools-1"
    folder.parent.mkdir()
    with laid_out(folder, "tools") as partial:
        for name in ("nvcc", "rustc", "cargo"):
            program(partial / "tree/bin" / name)
        (partial / "tree/lib").mkdir()
        (partial / "tree/lib/libcudart.so.13").write_bytes(b"\x7fELF" * 1000)
        (partial / "tree/lib/libcudart.so").symlink_to("libcudart.so.13")
    return folder


def replace_nvcc(tree: Path) -> None:
    program(tree / "bin/nvcc", BACKDOOR)


def replace_in_place_with_the_same_size_and_time(tree: Path) -> None:
    path = tree / "bin/nvcc"
    before = path.stat()
    path.write_text("x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rename_another_over_it(tree: Path) -> None:
    program(tree.parent / "new", BACKDOOR)
    (tree.parent / "new").rename(tree / "bin/nvcc")


def make_it_a_link(tree: Path) -> None:
    program(tree.parent / "new", BACKDOOR)
    (tree / "bin/nvcc").unlink()
    (tree / "bin/nvcc").symlink_to(tree.parent / "new")


def point_a_library_elsewhere(tree: Path) -> None:
    (tree / "lib/libcudart.so").unlink()
    (tree / "lib/libcudart.so").symlink_to("/tmp/libcudart.so")


def add_a_program_that_is_found_first(tree: Path) -> None:
    program(tree / "bin/cicc", BACKDOOR)


def add_a_folder_of_libraries(tree: Path) -> None:
    (tree / "lib/glibc-hwcaps").mkdir()
    (tree / "lib/glibc-hwcaps/libc.so.6").write_text("")


def remove_a_file(tree: Path) -> None:
    (tree / "lib/libcudart.so.13").unlink()


def let_everybody_write(tree: Path) -> None:
    (tree / "bin/nvcc").chmod(0o777)


def remove_the_list(tree: Path) -> None:
    (tree / verified.LIST).unlink()


def spoil_the_list(tree: Path) -> None:
    (tree / verified.LIST).write_text("[" * 100_000)


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (replace_nvcc, "bin/nvcc has other content"),
        (replace_in_place_with_the_same_size_and_time, "bin/nvcc has other content"),
        (rename_another_over_it, "bin/nvcc has other content"),
        (make_it_a_link, "bin/nvcc has other content"),
        (point_a_library_elsewhere, "lib/libcudart.so has other content"),
        (add_a_program_that_is_found_first, "bin/cicc was added"),
        (add_a_folder_of_libraries, "lib/glibc-hwcaps/libc.so.6 was added"),
        (remove_a_file, "lib/libcudart.so.13 is missing"),
        (let_everybody_write, "bin/nvcc can be written by every account"),
        (remove_the_list, "files.json is missing or damaged"),
        (spoil_the_list, "files.json is missing or damaged"),
    ],
)
def test_a_changed_tree_is_refused(tree: Path, attack: Callable[[Path], None], named: str) -> None:
    verify(tree)
    attack(tree)
    for _ in range(2):
        with pytest.raises(PipelineError) as caught:
            verify_programs(tree.parents[1], [tree / "bin/nvcc"])
        assert caught.value.what == f"the toolchain is not as it was installed: {named}"
        assert caught.value.where == str(tree)
        assert "delete the folder and run playbooks/builders.yml" in caught.value.remedy


def test_an_unchanged_tree_is_not_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one that a backup restored, from the second time on."""
    read: list[Path] = []
    digest = verified.sha256_file
    monkeypatch.setattr(verified, "sha256_file", lambda path: read.append(path) or digest(path))
    verify(tree)
    assert read == []
    copy = tree.with_name("tools-2")
    shutil.copytree(tree, copy, symlinks=True)
    verify(copy)
    assert len(read) >= 4
    read.clear()
    verify(copy)
    assert read == []


def test_thousands_of_files_are_verified_in_a_moment(tmp_path: Path) -> None:
    for number in range(5000):
        path = tmp_path / f"tree/{number % 50}/{number}.h"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    verified.record(tmp_path / "tree")
    began = time.process_time()
    verify(tmp_path / "tree")
    assert time.process_time() - began < 1


def test_a_replaced_rustc_does_not_run(tree: Path) -> None:
    assert find_rust(str(tree / "bin/cargo")).version == "1.95.0"
    mark = tree.parent / "ran"
    program(tree / "bin/rustc", f"#!/bin/sh\ntouch {mark}\n")
    with pytest.raises(PipelineError, match="bin/rustc has other content"):
        find_rust(str(tree / "bin/cargo"))
    assert not mark.exists()


def test_a_replaced_sccache_is_not_provided(tmp_path: Path) -> None:
    wheel = Wheel("1", tmp_path, PINS, "/nonexistent")
    (tmp_path / "toolchain").mkdir()
    with laid_out(wheel.folder, "sccache 1") as partial:
        program(partial / "tree/bin/sccache")
        wheel.program().write(partial / "tree" / STAMP)
    assert wheel.installed()
    program(wheel.folder / "bin/sccache", BACKDOOR)
    with pytest.raises(PipelineError, match="bin/sccache has other content"):
        wheel.installed()


def test_a_changed_wrapper_of_nvcc_is_made_anew(tree: Path) -> None:
    root = tree.parents[1]
    wrapper = nvcc.wrapped(tree, root, "13.0.88")
    program(wrapper.parent / "evil", BACKDOOR)
    (wrapper / "bin/rustc").unlink()
    (wrapper / "bin/rustc").symlink_to(wrapper.parent / "evil")
    assert changes(wrapper) == ["bin/rustc has other content"]
    assert changes(tree) == []
    nvcc.wrapped(tree, root, "13.0.88")
    assert changes(wrapper) == []
    assert (wrapper / "bin/rustc").resolve() == tree / "bin/rustc"
    assert changes(tree) == [], "what the wrapper links to has its own list"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_compiler_of_another_account_is_refused(tree: Path) -> None:
    os.chown(tree / "bin/nvcc", 65534, 65534)
    assert changes(tree) == ["bin/nvcc belongs to another account (uid 65534)"]
    own = tree.parents[1] / "cargo"
    program(own)
    verify_programs(tree.parents[1], [own])
    own.chmod(0o757)
    with pytest.raises(PipelineError, match="a compiler can be written by every account"):
        verify_programs(tree.parents[1], [own])
