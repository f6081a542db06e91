"""A lying builder and a lying repo host: the signer packages by itself, and nothing of theirs becomes a path."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError
from pipeline.base.companions import MOST_TEMPLATES
from pipeline.base.errors import PipelineError
from pipeline.base.patterns import commits
from pipeline.base.records import Artifact, Flavour, Package, Snapshot, sha256_file
from pipeline.channel.agent_client import AgentClient
from pipeline.package.handover import LIMITS, pack, place
from support.handovers import ADA, NAME, SOURCE, elf, make_artifact
from support.loading import load
from support.signer_site import Site, make_package

MACRO = "%{lua:posix.mkdir('/tmp/owned')}"


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return make_artifact(tmp_path / "builder/artifacts/ada/0123")


@pytest.fixture
def signs(tmp_path: Path, project: Path, run_module: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Packages a file as the signer does in a release of SOURCE for ada; nothing outside its folders may change."""
    (tmp_path / "other").write_text("of the signer")
    before = {path for path in tmp_path.rglob("*") if "builder" not in path.parts}

    def sign(file: Path, **change: Any) -> dict[str, Any]:
        arguments = {
            "handed": [{"builder": "forge", "file": str(file)}], "source": SOURCE.to_dict(), "flavour": ADA.to_dict(),
            "root": str(tmp_path / "signer"), "spec_folder": str(project / "rpm"), "dist": ".fc43",
        }  # fmt: skip
        began = time.monotonic()
        done = run_module("rpm_package", arguments | change)
        assert time.monotonic() - began < 20
        if done.get("failed"):
            assert "what forge handed over for ada is refused: " in done["msg"]
            assert str(file) in done["msg"]
            assert "Nothing was packaged or signed. Find out what ran on that builder" in done["msg"]
            assert "Traceback" not in done["msg"]
            assert not (tmp_path / "signer/packages").exists()
        left = {path for path in tmp_path.rglob("*") if not {"builder", "signer"} & set(path.parts)}
        assert left == before
        assert (tmp_path / "other").read_text() == "of the signer"
        return done

    return sign


def refused(done: dict[str, Any], why: str) -> None:
    assert done.get("failed"), done
    assert why in done["msg"], done["msg"]


def tar(path: Path, *members: tuple[tarfile.TarInfo | str, bytes], **how: Any) -> Path:
    """A tar with exactly these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **{"format": tarfile.USTAR_FORMAT, **how}) as archive:
        for info, data in members:
            one = tarfile.TarInfo(info) if isinstance(info, str) else info
            one.size = one.size or len(data)
            archive.addfile(one, io.BytesIO(data))
    return path


def manifest_of(artifact: Artifact, **change: Any) -> bytes:
    return json.dumps(artifact.to_dict() | change).encode()


def test_an_honest_artifact_is_packaged(artifact, tmp_path, signs):
    done = signs(pack(artifact, tmp_path / "builder", NAME))
    assert done["package"]["name"] == "mistralrs-ada"
    assert done["version_line"] == "mistralrs 0.9.2"
    assert done["package"]["path"].startswith(str(tmp_path / "signer/packages"))


# ---------------------------------------------------------------- what is handed over


def test_a_binary_that_was_swapped_after_the_audit_is_refused(artifact, tmp_path, signs):
    Path(artifact.folder, "mistralrs").write_bytes(elf(b"another program"))
    refused(signs(pack(artifact, tmp_path / "builder", NAME)), "not the one that was built and audited: its SHA-256 is")


def test_an_rpm_in_place_of_an_artifact_is_refused(tmp_path, signs):
    """The attack that had bash-99-1 signed."""
    package = make_package(tmp_path / "builder/rpm", "99", release="1")
    refused(signs(Path(package.path)), "refused: ")


@pytest.mark.parametrize(
    "name",
    [
        "../../other", "/etc/cron.d/x", "chat_templates/../../../other", "chat_templates/..", "chat_templates//x",
        ".rpmmacros", "mistralrs.spec", "systemd/mistralrs@.service", "--define=x", "chat_templates/-x",
        "chat_templates/a\nb", f"chat_templates/{MACRO}", "chat_templates/$(reboot)", "chat_templates/a/b/c/d/e/f",
        "chat_templates",
    ],
)  # fmt: skip
def test_a_file_of_another_name_is_refused(name, artifact, tmp_path, signs):
    members = [("manifest.json", manifest_of(artifact)), ("mistralrs", elf()), (name, b"mine")]
    refused(signs(tar(tmp_path / "builder/x.tar", *members)), "refused: it has a file ")


def a_member(kind: bytes, target: str = "/etc/shadow") -> tarfile.TarInfo:
    info = tarfile.TarInfo("LICENSE")
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(tarfile.SYMTYPE, id="link"), pytest.param(tarfile.LNKTYPE, id="hard link"),
        pytest.param(tarfile.FIFOTYPE, id="fifo"), pytest.param(tarfile.CHRTYPE, id="device"),
        pytest.param(tarfile.DIRTYPE, id="folder"), pytest.param(tarfile.GNUTYPE_SPARSE, id="sparse file"),
        pytest.param(tarfile.XHDTYPE, id="extended header"), pytest.param(tarfile.GNUTYPE_LONGNAME, id="long name"),
    ],
)  # fmt: skip
def test_a_member_that_is_no_regular_file_is_refused(kind, artifact, tmp_path, signs):
    members = [("manifest.json", manifest_of(artifact)), ("mistralrs", elf()), (a_member(kind), b"")]
    refused(signs(tar(tmp_path / "builder/x.tar", *members)), "is no regular file")


def test_links_and_a_fifo_in_place_of_the_file_are_refused_at_once(artifact, tmp_path, signs):
    honest, file = pack(artifact, tmp_path / "builder", NAME), tmp_path / "builder/x.tar"
    file.symlink_to(honest)
    refused(signs(file), "Too many levels of symbolic links")
    file.unlink()
    os.mkfifo(file)
    refused(signs(file), "it is no regular file")
    file.unlink()
    refused(signs(file), "forge left no file")


def test_sizes_have_limits(artifact, tmp_path, signs):
    file = tmp_path / "builder/huge.tar"
    file.touch()
    os.truncate(file, 1 << 40)
    refused(signs(file), "it has 1,099,511,627,776 bytes, more than ")
    large = tarfile.TarInfo("LICENSE")
    large.size = LIMITS["LICENSE"] + 1
    refused(signs(tar(file, ("manifest.json", manifest_of(artifact)), (large, bytes(large.size)))), "LICENSE has ")
    claims = tarfile.TarInfo("mistralrs")
    claims.size = 1 << 30
    claims_only = tar(tmp_path / "builder/short.tar", ("manifest.json", manifest_of(artifact)))
    end = 512 + -(-len(manifest_of(artifact)) // 512) * 512
    claims_only.write_bytes(claims_only.read_bytes()[:end] + claims.tobuf(tarfile.USTAR_FORMAT) + b"few")
    refused(signs(claims_only), "it ends within mistralrs")


def test_numbers_have_limits(artifact, tmp_path, signs):
    many = [(f"chat_templates/{number}", b"") for number in range(MOST_TEMPLATES + 9)]
    file = tar(tmp_path / "builder/many.tar", ("manifest.json", manifest_of(artifact)), ("mistralrs", elf()), *many)
    refused(signs(file), "more than 500 templates")
    twice = [("manifest.json", manifest_of(artifact)), ("mistralrs", elf()), ("mistralrs", elf(b"other"))]
    refused(signs(tar(file, *twice)), "it has mistralrs twice")


@pytest.mark.parametrize(
    "program", [b"#!/bin/sh\nreboot\n", b"", elf()[:40], elf().replace(b"\x3e\0", b"\xb7\0"), b"\xed\xab\xee\xdb" * 99]
)
def test_a_binary_of_another_kind_is_refused(program, tmp_path, signs):
    """A script, nothing, a cut-off program, one for ARM, an RPM."""
    artifact = make_artifact(tmp_path / "builder/artifacts/ada/0123", program)
    refused(signs(pack(artifact, tmp_path / "builder", NAME)), "the binary is no ELF program for x86-64")


# ---------------------------------------------------------------- what the manifest claims


@pytest.mark.parametrize(
    "value", ["../../other", "--define=_topdir /", MACRO, "0.9.2\n%global x 1", "a b", "", "x" * 999]
)
@pytest.mark.parametrize(
    ("record", "field"),
    [
        ("source", "version"), ("source", "rpm_version"), ("source", "commit"), ("flavour", "name"),
        ("", "binary"), ("", "crate_version"), ("", "sha256"), ("", "inputs"),
    ],
)  # fmt: skip
def test_a_field_that_could_be_a_path_an_option_or_a_macro_is_refused(record, field, value, artifact):
    """No such record can be made, wherever it comes from."""
    data = artifact.to_dict()
    (data[record] if record else data)[field] = value
    with pytest.raises(PipelineError, match=rf"\.{field} is not a"):
        Artifact.from_dict(data)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"source": SOURCE.to_dict() | {"commit": "f" * 40}}, "its source has commit 'ffff"),
        ({"source": SOURCE.to_dict() | {"rpm_version": "9.9.9"}}, "its source has rpm_version '9.9.9', not '0.9.2'"),
        ({"source": SOURCE.to_dict() | {"url": f"https://example.org/{MACRO}"}}, "its source has url"),
        ({"source": SOURCE.to_dict() | {"commit_time": 1}}, "its source has commit_time 1, not 1787000000"),
        ({"flavour": Flavour("bash", "RTX 40 and L40", "8.9", "13.0", ("cuda",), 580).to_dict()}, "flavour has name"),
        ({"flavour": ADA.to_dict() | {"summary": MACRO}}, "its flavour has summary"),
        ({"flavour": ADA.to_dict() | {"name": "../../other"}}, "Flavour.name is not a flavour's name"),
        ({"source": SOURCE.to_dict() | {"rpm_version": "1\n%global x 1"}}, "Source.rpm_version is not a version"),
        ({"stray": 1}, "has the unknown keys stray"),
        ({"size": True}, "Artifact.size must be int"),
        ({"source": None}, ""),
        ({"cache": [{"kind": "Rust"}]}, "CacheCount record lacks"),
    ],
)
def test_a_manifest_of_something_else_is_refused(change, why, artifact, tmp_path, signs):
    members = [("manifest.json", manifest_of(artifact, **change)), ("mistralrs", elf())]
    refused(signs(tar(tmp_path / "builder/x.tar", *members)), why)


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"{", b"[" * 100_000, b'"x"', b"\xff\xfe", b'{"a": NaN}', b"9" * 5000]
)
def test_a_manifest_of_another_form_is_refused(data, tmp_path, signs):
    refused(signs(tar(tmp_path / "builder/x.tar", ("manifest.json", data), ("mistralrs", elf()))), "refused: ")


def test_nothing_that_the_builder_names_is_in_the_package(artifact, tmp_path, signs):
    """All of these are lines of text, which a manifest may hold: no path, argument or macro is made of them."""
    lies = dict.fromkeys(("folder", "log", "report", "rustflags", "rustc"), f"{MACRO} --define 'x y' ../../other")
    file = tar(tmp_path / "builder/x.tar", ("manifest.json", manifest_of(artifact, **lies)), ("mistralrs", elf()))
    done = signs(file)
    assert not done.get("failed"), done
    assert "lua" not in json.dumps(done)
    rpm = Path(done["package"]["path"])
    assert rpm.name == "mistralrs-ada-0.9.2-1.fc43.x86_64.rpm"
    assert not Path("/tmp/owned").exists()


# ---------------------------------------------------------------- what is signed


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.make(tmp_path_factory.mktemp("site"))


@pytest.fixture
def sign_record(site: Site, run_module: Callable[..., dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The module that signs, with a record as a lying builder gives it."""
    signer = {
        "root": str(site.signer.root), "home": str(site.signer.home), "trusted_keys": str(site.signer.trusted_keys)
    }  # fmt: skip
    return lambda record: run_module("rpm_signature", {"package": record, "signer": signer})


def bash_in(folder: Path) -> Package:
    """An RPM that a builder made, named bash, in a folder where hand-overs arrive."""
    package = make_package(folder, "99", release="1")
    return dataclasses.replace(package, name="bash")


def test_a_package_that_the_signer_did_not_make_is_not_signed(site, sign_record):
    package = make_package(site.signer.root / "incoming/forge", "99", release="1")
    done = sign_record(package.to_dict())
    refused(done, "is no package that this signer made")
    assert "Find out where this comes from" in done["msg"]
    assert not (site.signer.root / "signed").exists()


def test_a_link_from_the_signers_folder_to_a_builders_package_is_not_signed(site, sign_record):
    package = make_package(site.signer.root / "incoming/anvil", "98", release="1")
    for at in (site.signer.root / "packages/0123/x.rpm", site.signer.root / "packages/link/x.rpm"):
        at.parent.parent.mkdir(parents=True, exist_ok=True)
    (site.signer.root / "packages/link").symlink_to(Path(package.path).parent)
    (site.signer.root / "packages/0123").mkdir()
    (site.signer.root / "packages/0123/x.rpm").symlink_to(package.path)
    for path in ("packages/0123/x.rpm", f"packages/link/{Path(package.path).name}"):
        refused(sign_record({**package.to_dict(), "path": str(site.signer.root / path)}), "no package that this signer")


def test_a_record_of_another_package_than_the_file_is_not_signed(site, sign_record):
    """A record named a file outside of the signer's folder by its name."""
    package = make_package(site.signer.root / "packages/4567", "97", release="1")
    refused(sign_record({**package.to_dict(), "name": "bash"}), "its record has bash-97-1.x86_64")
    refused(sign_record({**package.to_dict(), "version": "../../x"}), "Package.version is not a version")
    refused(sign_record({**package.to_dict(), "name": "../../../escaped"}), "Package.name is not a name")
    refused(sign_record({**package.to_dict(), "release": "1;reboot"}), "Package.release is not a version")
    assert not list(site.folder.rglob("escaped*"))


# ---------------------------------------------------------------- the way to the signer


class Local:
    """The part of a connection that the action plugin uses; its builder sends what it likes."""

    transport = "local"

    def __init__(self, send: Callable[[Path], object]) -> None:
        self.send = send

    def fetch_file(self, _: str, target: str) -> None:
        self.send(Path(target))


def bring(project: Path, send: Callable[[Path], object], target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = load(project / "plugins/action/artifact_handover.py", "action_artifact_handover")
    monkeypatch.setattr(plugin, "LARGEST", 1 << 20)
    action = plugin.ActionModule.__new__(plugin.ActionModule)
    action._connection = Local(send)
    action._bring(place(Path("/builder"), NAME), target)


def test_a_builder_that_sends_without_end_fills_no_disk(project, tmp_path, monkeypatch):
    target = tmp_path / "incoming/forge/x.tar"
    bring(project, lambda path: path.write_bytes(b"artifact"), target, monkeypatch)

    def endless(path: Path) -> None:
        with path.open("wb") as file:
            for _ in range(1 << 10):
                file.write(bytes(1 << 16))

    with pytest.raises(AnsibleError, match="cannot be brought from the builder: more than 1,048,576 bytes"):
        bring(project, endless, target, monkeypatch)
    assert target.read_bytes() == b"artifact"
    assert [path.name for path in target.parent.iterdir()] == ["x.tar"]
    (tmp_path / "free").write_bytes(bytes(1 << 21))


@pytest.mark.parametrize("name", ["../../x", "/x", "a/b", "", "a b", "-x", "x\n"])
def test_a_hand_over_has_a_plain_name(name):
    with pytest.raises(PipelineError, match="cannot be named"):
        place(Path("/builder"), name)


def test_only_commits_of_a_builders_list_reach_git():
    """The signer leaves out of a pack what the builder has."""
    honest = ["a" * 40, "b" * 64]
    lies = ["--all", "HEAD", "a" * 39, f"{'a' * 40}\n--all", f"{'a' * 40} --all", "A" * 40, ":/secret", ""]
    assert commits([*honest, *lies]) == honest


def test_facts_of_a_lying_builder_are_no_variables(project):
    """A module's result can hold facts of any name. As variables they would replace the inventory's of that builder."""
    settings = (project / "ansible.cfg").read_text().splitlines()
    assert "inject_facts_as_vars = false" in settings[: settings.index("[ssh_connection]")]


# ---------------------------------------------------------------- a lying repo host


def agent(tmp_path: Path, answer: object) -> AgentClient:
    program = tmp_path / "agent"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(answer)}\nEND\n")
    program.chmod(0o755)
    return AgentClient([str(program)], "repo")


@pytest.mark.parametrize("head", ["../../other", "/etc", "20260822T143813Z-0123abcd/../../x", "--help", "x\n", {}, 7])
def test_an_agents_head_that_is_no_snapshot_is_refused(head, tmp_path):
    client = agent(tmp_path, {"snapshot": head, "room": 1 << 40, "time": 0})
    with pytest.raises(PipelineError, match="the repo host gave no answer of the publisher agent"):
        client.look("stable")


@pytest.mark.parametrize("rows", [[{"id": "../../x"}], [7], "x", [{"id": "x\x1b[2J"}], [["x"]]])
def test_an_agents_snapshots_that_are_none_are_refused(rows, tmp_path):
    client = agent(tmp_path, {"snapshot": "", "snapshots": rows, "time": 0})
    with pytest.raises(PipelineError, match="the repo host gave no answer of the publisher agent"):
        client.status("stable")


def test_an_agents_answer_holds_no_escape_sequence(tmp_path):
    journal = [{"reason": "\x1b]0;owned\x07 yanked\r\nok", "who": "x"}]
    answer = agent(tmp_path, {"time": 0, "snapshot": "", "snapshots": [], "journal": journal}).status("stable")
    assert answer["journal"][0]["reason"] == "?]0;owned? yanked??ok"


@pytest.mark.parametrize("name", ["../../x.rpm", "/etc/x", "a b.rpm", "x\n.rpm", ".hidden", MACRO])
@pytest.mark.parametrize("field", ["added", "removed", "yanked"])
def test_a_snapshots_record_names_plain_files(field, name):
    record = Snapshot("20260822T143813Z-0123abcd", "stable", "", 1, "why").to_dict()
    with pytest.raises(PipelineError, match=rf"Snapshot.{field} is not a file name"):
        Snapshot.from_dict(record | {field: [name]})


def test_what_was_packaged_is_intact(artifact, tmp_path, signs):
    """A package that changed in the signer's folder since is made again."""
    done = signs(file := pack(artifact, tmp_path / "builder", NAME))
    rpm = Path(done["package"]["path"])
    rpm.write_bytes(b"swapped")
    again = signs(file)
    assert again["changed"]
    assert sha256_file(rpm) == done["package"]["sha256"]
