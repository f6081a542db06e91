"""A hostile caller: configuration and variables of the account that starts the project, aimed at each program.

tests/e2e runs whole releases with the same caller (support/hostile_caller.py). Here each row has its own test.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline.base import git as git_room
from pipeline.base.errors import PipelineError
from pipeline.base.git import git, remote_refs
from pipeline.base.run import run
from pipeline.build.fetch import refuse_configuration_above
from pipeline.check.downloads import Download, check_downloads
from pipeline.check.trials import alone
from pipeline.source.checkout import current_commit, move
from pipeline.source.mirrors import CUTLASS, Mirrors, seed_cutlass
from pipeline.source.upstream import resolve
from support.hostile_caller import variables


@pytest.fixture
def caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a hostile caller, which this process becomes."""
    folder = tmp_path / "caller"
    for name, value in variables(folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LD_PRELOAD", "/nonexistent.so")
    # The playbooks set the mirrors of each task that uses git (filter git_environment); the first row stays hostile.
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    yield folder
    ran = folder / "ran"
    assert not ran.exists(), f"a program of the caller's configuration ran: {ran.read_text()}"


def digest(folder: Path) -> str:
    """A digest of every byte and name below a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(str(path.relative_to(folder)).encode())
        found.update(path.read_bytes() if path.is_file() else b"")
    return found.hexdigest()


def plain_git(*words: str | Path) -> str:
    """git as a person runs it, without any configuration."""
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(["git", *words], env=env, capture_output=True, text=True, check=True).stdout


# ---------------------------------------------------------------- git


def test_a_hostile_git_configuration_changes_no_byte_of_the_checkout(
    caller: Path, tmp_path: Path, upstream: Path
) -> None:
    source = resolve(f"file://{upstream}", tmp_path / "signer/upstream.git", kind="tag")
    checkout = tmp_path / "builder/src"
    move(checkout, source)
    wanted = plain_git(f"--git-dir={upstream}", "ls-tree", "-r", source.commit)
    for row in wanted.splitlines():
        about, _, name = row.partition("\t")
        made = plain_git("hash-object", "--no-filters", checkout / name).strip()
        assert made == about.split()[2], name
    assert not (checkout / ".git/hooks").exists(), "a template of the caller's"


@pytest.mark.parametrize("damage", ["empty HEAD", "no objects", "HEAD is a folder", "link", "garbage"])
def test_a_damaged_repository_never_stands_for_the_one_around_it(damage: str, tmp_path: Path, upstream: Path) -> None:
    """git searches upwards for a repository. The project's folders lie in the project's own clone."""
    outer = tmp_path / "clone"
    plain_git("init", "--quiet", outer)
    plain_git("-C", outer, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "--allow-empty", "-m", "x")
    plain_git("-C", outer, "remote", "add", "origin", "https://example.org/clone.git")
    mirror = outer / ".local/signer/upstream.git"
    url = f"file://{upstream}"
    resolve(url, mirror, kind="tag")
    match damage:
        case "empty HEAD":
            (mirror / "HEAD").write_text("")
        case "garbage":
            (mirror / "HEAD").write_bytes(b"\xff\xfe")
        case "HEAD is a folder":
            (mirror / "HEAD").unlink()
            (mirror / "HEAD").mkdir()
        case "no objects":
            subprocess.run(["rm", "-r", mirror / "objects"], check=True)
        case "link":
            subprocess.run(["rm", "-r", mirror / "refs"], check=True)
            (mirror / "refs").symlink_to(outer / ".git/refs")
    before = digest(outer / ".git")
    for call in (("rev-parse", "HEAD"), ("config", "remote.origin.url", "file:///hostile"), ("gc", "--quiet")):
        with suppress(PipelineError):
            git(*call, repository=mirror)
    assert digest(outer / ".git") == before
    assert resolve(url, mirror, kind="tag").version == "0.9.2"
    assert digest(outer / ".git") == before


def test_a_repository_gets_its_own_configuration_back_before_use(tmp_path: Path, upstream: Path) -> None:
    """As when something wrote into the git folder: hooks, filters, another remote, another work tree."""
    source = resolve(f"file://{upstream}", tmp_path / "upstream.git", kind="tag", version="0.9.1")
    checkout, ran = tmp_path / "src", tmp_path / "ran"
    move(checkout, source)
    hook = checkout / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {ran}\n")
    hook.chmod(0o755)
    with (checkout / ".git/config").open("a") as config:
        config.write(
            f'[filter "x"]\n\tsmudge = touch {ran}\n\tclean = touch {ran}\n[core]\n\tworktree = /nonexistent\n'
            f"\tfsmonitor = {hook}\n\tsshCommand = {hook}\n[diff]\n\texternal = {hook}\n"
            f'[url "file:///nonexistent/"]\n\tinsteadOf = file:///\n[include]\n\tpath = /nonexistent\n'
        )
    (checkout / ".git/info").mkdir(exist_ok=True)
    (checkout / ".git/info/attributes").write_text("* filter=x\n")
    newer = resolve(f"file://{upstream}", tmp_path / "upstream.git", kind="tag")
    move(checkout, newer)
    assert current_commit(checkout) == newer.commit
    assert not ran.exists()


def test_replaced_objects_do_not_count(tmp_path: Path, upstream: Path) -> None:
    source = resolve(f"file://{upstream}", tmp_path / "upstream.git", kind="tag", version="0.9.1")
    other = resolve(f"file://{upstream}", tmp_path / "upstream.git", kind="tag").commit
    checkout = tmp_path / "src"
    move(checkout, source)
    plain_git("-C", checkout, "fetch", "--quiet", upstream, other)
    plain_git("-C", checkout, "replace", other, source.commit)
    assert git("cat-file", "commit", other, repository=checkout) == plain_git(
        "--no-replace-objects", "-C", checkout, "cat-file", "commit", other
    )


def test_an_account_keeps_what_it_needs_to_reach_upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credential helpers, headers and proxies of ~/.gitconfig apply; they are in no argument of a program."""
    (tmp_path / ".gitconfig").write_text(
        "[credential]\n\thelper = store\n[http]\n\tproxy = http://proxy:3128\n\tsslVerify = false\n"
        '[http "https://git.example.org/"]\n\textraHeader = Authorization: token s3cret\n[core]\n\tautocrlf = true\n'
        '[url "https://evil/"]\n\tinsteadOf = https://github.com/\n[credential "https://x"]\n\tuseHttpPath = true\n'
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)
    calls: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(git_room, "run", lambda argv, **given: calls.append((argv, given)) or run(argv, **given))
    listed = git("config", "--list").splitlines()
    assert {
        "credential.helper=store", "http.proxy=http://proxy:3128", "credential.https://x.usehttppath=true",
        "http.https://git.example.org/.extraheader=Authorization: token s3cret", "core.autocrlf=false",
    } <= set(listed)  # fmt: skip
    assert not [line for line in listed if "evil" in line or "sslverify" in line or line == "core.autocrlf=true"]
    assert not [argv for argv, _ in calls if "s3cret" in " ".join(argv)]


def test_the_caller_does_not_stand_in_a_repository(
    caller: Path, tmp_path: Path, upstream: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_git("init", "--quiet", tmp_path / "here")
    with (tmp_path / "here/.git/config").open("a") as config:
        config.write('[url "file:///nonexistent/"]\n\tinsteadOf = file:///\n')
    monkeypatch.chdir(tmp_path / "here")
    assert "refs/tags/v0.9.2" in remote_refs(f"file://{upstream}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository to another account")
def test_a_repository_of_another_account_is_refused_whatever_the_caller_thinks_of_it(
    tmp_path: Path, upstream: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By upstream's address and by a mirror's: on the signer, on a builder, in its check, for crates, for CUTLASS."""
    (tmp_path / ".gitconfig").write_text("[safe]\n\tdirectory = *\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    url, refused = f"file://{upstream}", "dubious ownership.* belongs to another account: give it to the one"
    source = replace(resolve(url, tmp_path / "mirror", kind="tag"), url="https://git.invalid/upstream.git")
    os.chown(upstream, 65534, 65534)
    mirrors = Mirrors({source.url: url, CUTLASS: url})
    for name, value in mirrors.environment.items():
        monkeypatch.setenv(name, value)
    for address in (url, source.url):
        with pytest.raises(PipelineError, match=refused):
            remote_refs(address)
    with pytest.raises(PipelineError, match=refused):
        move(tmp_path / "src", source)
    (finding,) = check_downloads([Download("git", url, here=False)])
    assert re.search(refused, f"{finding.found} {finding.remedy}")
    with pytest.raises(PipelineError, match=refused):
        seed_cutlass(tmp_path / "cudaforge", source.commit, "flash-attn", mirrors, {})
    printed = f"fatal: detected dubious ownership in repository at '{upstream}'\nTo add an exception, call: git config"
    assert mirrors.blamed(printed).startswith("The repository belongs to another account")


# ---------------------------------------------------------------- other programs


@pytest.mark.parametrize(
    "words",
    [
        ["gpg", "--homedir", "{home}", "--batch", "--no-such-option"],
        ["grep", "--no-such-option"],
        ["sed", "--no-such-option"],
        ["rpm", "-qp", "/nonexistent.rpm"],
        ["git", "rev-parse", "--verify", "nothing"],
        ["ls", "/nonexistent"],
        ["bash", "-c", "no-such-program"],
    ],
    ids=lambda words: words[0],
)
def test_messages_are_english_whatever_the_language(caller: Path, words: list[str], tmp_path: Path) -> None:
    """Messages are parsed. gettext reads LANGUAGE in the locale C.UTF-8 too."""
    (tmp_path / "gnupg").mkdir(mode=0o700)
    done = run([word.format(home=tmp_path / "gnupg") for word in words], accept=range(256))
    assert done.stderr
    assert done.stderr.isascii(), done.stderr


def test_macros_and_folders_of_the_callers_rpm_are_not_read(caller: Path) -> None:
    for macro, hostile in (("_gpg_digest_algo", "sha1"), ("dist", ".hostile"), ("packager", "hostile")):
        assert run(["rpm", "--eval", f"%{macro}"]).stdout.strip() != hostile
    assert run(["rpm", "--eval", "%_rpmfilename"]).stdout.strip() != "%_rpmfilename", "rpm's own macros are gone"


def test_options_in_variables_are_not_read(caller: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run(["tar", "-C", tmp_path, "-czf", tmp_path / "archive.tar.gz", "file"])
    run(["bash", "-c", "echo x | grep x"])
    run(["xz", "-k", tmp_path / "file"])
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "from/new").touch()
    (tmp_path / "to/old").touch()
    run(["rsync", "-rt", f"{tmp_path}/from/", f"{tmp_path}/to/"])
    assert {path.name for path in (tmp_path / "to").iterdir()} == {"new", "old"}, "an alias of ~/.popt applied"
    assert run(["env"]).stdout.count("hostile") == 0


def test_cargo_reads_no_configuration_above_the_caller_or_the_clone(
    caller: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".cargo").mkdir()
    (tmp_path / ".cargo/config.toml").write_text("[profile.release]\nopt-level = 0\nbroken")
    package = tmp_path / "clone"
    (package / "src").mkdir(parents=True)
    (package / "src/lib.rs").touch()
    (package / "Cargo.toml").write_text('[package]\nname = "x"\nversion = "0.1.0"\nedition = "2021"\n')
    monkeypatch.chdir(package)
    monkeypatch.delenv("RUSTUP_TOOLCHAIN")
    home = f"CARGO_HOME={tmp_path / 'own'}"
    path = os.environ["PATH"]
    rustup = [f"RUSTUP_HOME={os.environ.get('RUSTUP_HOME') or Path('~root/.rustup').expanduser()}"]
    words = ["env", home, *rustup, "cargo", "metadata", "--offline", "--format-version", "1", "--no-deps"]
    assert alone([*words, "--manifest-path", package / "Cargo.toml"], path) == ""


@pytest.mark.parametrize("name", ["config.toml", "config"])
def test_without_a_sandbox_a_configuration_of_cargo_above_the_clone_is_refused(tmp_path: Path, name: str) -> None:
    """In the sandbox nothing above the checkout is visible: tests/e2e has such a file."""
    checkout = tmp_path / "builder/src"
    (checkout / ".cargo").mkdir(parents=True)
    (checkout / ".cargo" / name).touch()
    refuse_configuration_above(checkout)
    (tmp_path / ".cargo").mkdir()
    (tmp_path / ".cargo" / name).touch()
    with pytest.raises(PipelineError, match=f"not upstream's.*/.cargo/{name}.*Move it away, set builder_root"):
        refuse_configuration_above(checkout)


def test_files_have_the_same_modes_whatever_the_umask(tmp_path: Path, run_module: Callable[..., object]) -> None:
    for number, umask in enumerate((0o000, 0o077)):
        before = os.umask(umask)
        try:
            run(["sh", "-c", f"touch {tmp_path}/{number}; mkdir {tmp_path}/{number}.d"])
            run_module("builder_artifacts", {"root": str(tmp_path), "keep": 1})
            (tmp_path / f"module-{number}").touch()
        finally:
            os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}
    assert modes == {
        "0": "0o644", "0.d": "0o755", "1": "0o644", "1.d": "0o755", "module-0": "0o644", "module-1": "0o644",
    }  # fmt: skip


# ---------------------------------------------------------------- the project's own scripts


def test_a_script_works_in_its_own_checkout(tmp_path: Path, project: Path) -> None:
    """cd searches CDPATH: another folder scripts/ there would stand for the project's."""
    for folder in ("checkout/scripts", "other/scripts", "other/.venv"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(project / "scripts/setup", tmp_path / "checkout/scripts/setup")
    (tmp_path / "other/.venv/.ready").touch()
    (tmp_path / "other/.venv/.ready-tests").touch()
    done = subprocess.run(
        ["scripts/setup", "tests"], cwd=tmp_path / "checkout", env={**os.environ, "CDPATH": str(tmp_path / "other")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "the environment is not set up" in done.stderr
    assert (tmp_path / "other/.venv/.ready-tests").exists()


def test_make_passes_no_setting_of_the_callers_shell_or_python_on(tmp_path: Path, project: Path) -> None:
    hostile = {"BASH_ENV": f"{tmp_path}/rc", "PYTHONPATH": str(tmp_path), "LANGUAGE": "ru", "CDPATH": "/", "ENV": "/x"}
    (tmp_path / "rc").write_text(f"touch {tmp_path}/ran\n")
    shutil.copy(project / "Makefile", tmp_path / "Makefile")
    (tmp_path / "more.mk").write_text("include Makefile\nshow: ; @env\n")
    done = subprocess.run(
        ["make", "-f", "more.mk", "show"], cwd=tmp_path, env={**os.environ, **hostile}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert {line.partition("=")[0] for line in done.stdout.splitlines()}.isdisjoint(hostile), done.stdout
    assert not (tmp_path / "ran").exists()
