"""Package: real rpmbuild, rpm, rpmlint, systemd-analyze and update-alternatives on a small real program."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Flavour, Package, Source, sha256_file
from pipeline.package import rpm
from pipeline.package.handover import pack
from pipeline.package.rpm import Packaging, read_package
from support.handovers import build, hand_over, make_artifact
from support.rpms import query, sh, unpack
from support.systems import CLIENTS, root_of

COMMIT = "9e92262aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
SOURCE = Source("https://example.org/mistral.rs.git", "v0.8.0", "tag", COMMIT, 1_750_000_000, "0.8.0", "0.8.0")
ADA = Flavour("ada", "RTX 40 and L40", "8.9", "13.0", ("cuda",), 580)
BLACKWELL = Flavour("blackwell", "RTX 50", "12.0", "13.2", ("cuda",), 595)
CPU = Flavour("cpu", "any x86-64 CPU")
UNIT = "usr/lib/systemd/system/mistralrs-ada@.service"


@pytest.fixture(scope="session")
def program(tmp_path_factory) -> Path:
    """An ELF file in place of the binary."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "main.c").write_text('#include <stdio.h>\nint main(void) { return puts("mistralrs 0.8.0") < 0; }\n')
    sh("gcc", "-g", "-o", folder / "mistralrs", folder / "main.c")
    return folder / "mistralrs"


@pytest.fixture
def home(tmp_path, program, project) -> Path:
    """A home as rpmdev-setuptree makes it, with only the required files in SOURCES: the binaries and two texts."""
    tree = tmp_path / "home/rpmbuild"
    for name in ("BUILD", "RPMS", "SOURCES", "SPECS", "SRPMS"):
        (tree / name).mkdir(parents=True)
    (tmp_path / "home/.rpmmacros").write_text("%_topdir %(echo $HOME)/rpmbuild\n")
    for flavour in (ADA, BLACKWELL, CPU):
        (tree / "SOURCES" / flavour.package_name).symlink_to(program)
    for name in (rpm.UNIT, rpm.EXAMPLE):
        shutil.copy(project / "rpm" / name, tree / "SOURCES")
    return tmp_path / "home"


def plain(home: Path, project: Path, version: str = "0.8.0", flavour: str = "ada", *more: str) -> Path:
    """The plain command in the spec's header."""
    sh("rpmbuild", "-bb", project / "rpm/mistralrs.spec", "--define", f"mistralrs_version {version}",
       "--define", f"mistralrs_flavour {flavour}", *more, HOME=str(home))  # fmt: skip
    (rpm,) = (home / "rpmbuild/RPMS").glob(f"*/mistralrs-{flavour}-{version}-*.rpm")
    return rpm


def packaging_for(folder: Path, program: Path, project: Path, flavour: Flavour = ADA, **change: str) -> Packaging:
    """An artifact as a build leaves it, handed over to be packaged below ``folder``."""
    artifact = make_artifact(
        folder / "artifacts" / flavour.name, program.read_bytes(), source=dataclasses.replace(SOURCE, **change),
        flavour=flavour, crate_version="0.8.0",
    )  # fmt: skip
    return Packaging(hand_over(artifact, folder), folder, project / "rpm", "1", ".fc43")


def arguments_of(packaging: Packaging) -> dict[str, object]:
    """The arguments of the module that packages the same artifact."""
    artifact = packaging.handed.artifact
    return {
        "handed": [{"builder": "forge", "file": str(pack(artifact, packaging.root / "builder", "ada-0.8.0-1.fc43"))}],
        "source": artifact.source.to_dict(), "flavour": artifact.flavour.to_dict(), "root": str(packaging.root),
        "spec_folder": str(packaging.spec_folder), "dist": ".fc43",
    }  # fmt: skip


def test_the_plain_command_needs_three_files(home, project):
    rpm = plain(home, project)
    assert sorted(query(rpm, "-l")) == [
        "/etc/mistralrs",
        "/usr/bin/mistralrs-ada",
        "/usr/lib/systemd/system/mistralrs-ada@.service",
        "/usr/lib/sysusers.d/mistralrs-ada.conf",
        "/usr/share/mistralrs-ada",
        "/usr/share/mistralrs-ada/mistralrs@.conf.example",
    ]


@pytest.mark.parametrize("client", CLIENTS)
def test_the_commands_of_the_documents_work_as_they_stand(tmp_path, program, project, client):
    """Pasted into a shell with an empty home, by this system's rpmbuild and by that of Fedora's generation."""
    checkout, home = tmp_path / "checkout", tmp_path / "home"
    shutil.copytree(project / "rpm", checkout / "rpm")
    (checkout / "artifacts").mkdir()
    shutil.copy(program, checkout / "artifacts/mistralrs-ada")
    home.mkdir()
    text = (project / "docs/operate.md").read_text()
    section = text.partition("### Package a binary by hand\n")[2].partition("\n## ")[0]
    (commands,) = re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    inside = ["bwrap", "--ro-bind", root_of(client), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
              "--tmpfs", "/var/tmp", "--bind", tmp_path, "/mnt", "--chdir", "/mnt/checkout"]  # fmt: skip
    sh(*inside, "bash", "-euc", commands, HOME="/mnt/home")
    (made,) = (home / "rpmbuild/RPMS").rglob("*.rpm")
    assert query(made, "--qf", "%{NAME} %{VERSION}\n") == ["mistralrs-ada 0.8.0"]
    assert sha256_file(unpack(made, tmp_path / "files") / "usr/bin/mistralrs-ada") == sha256_file(program)
    header = (project / "rpm/mistralrs.spec").read_text().replace("\n#   ", "\n")
    assert commands in header, "the head of the spec shows other commands"


def test_without_a_version_the_spec_names_the_missing_define(home, project):
    done = subprocess.run(
        ["rpmbuild", "-bb", project / "rpm/mistralrs.spec", "--define", "mistralrs_flavour ada"],
        env=os.environ | {"HOME": str(home)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode
    assert 'mistralrs_version is not defined: --define "mistralrs_version 0.8.0"' in done.stderr


@pytest.mark.parametrize("version", ["0.8.4~rc4", "0.9.2^20260822.143813git9e92262", "0.8.4~rc4^20260601.1git1"])
def test_versions_of_prereleases(home, project, version):
    assert query(plain(home, project, version), "--qf", "%{VERSION}") == [version]


def test_the_binary_is_packaged_byte_for_byte(home, project, program, tmp_path):
    """It has debug information, which a policy script would strip."""
    files = unpack(plain(home, project), tmp_path / "files")
    assert sha256_file(files / "usr/bin/mistralrs-ada") == sha256_file(program)
    assert sh(files / "usr/bin/mistralrs-ada") == "mistralrs 0.8.0\n"


def test_the_templates_are_filled_in(home, project, tmp_path):
    files = unpack(plain(home, project), tmp_path / "files")
    unit = (files / UNIT).read_text()
    assert "\nExecStart=/usr/bin/mistralrs-ada from-config --file %d/mistralrs.toml\n" in unit
    for path in files.rglob("mistralrs*@*"):
        if path.is_file():
            assert "@BINARY@" not in path.read_text()
            assert "@FLAVOUR@" not in path.read_text()


def test_the_example_listens_on_loopback_only(home, project, tmp_path):
    files = unpack(plain(home, project), tmp_path / "files")
    text = (files / "usr/share/mistralrs-ada/mistralrs@.conf.example").read_text()
    settings = tomllib.loads(text)
    assert settings["command"] == "serve"
    assert settings["server"] == {"host": "127.0.0.1", "port": 1234}
    assert settings["models"][0]["kind"] == "auto"
    assert "systemctl enable --now mistralrs@NAME           (or mistralrs-ada@NAME" in text
    # The commented lines are TOML too.
    uncommented = "\n".join(
        line.removeprefix("#") if line.startswith("#") and line[1:2].isalpha() else line for line in text.splitlines()
    )
    assert tomllib.loads(uncommented)["models"][0]["quantization"] == {"in_situ_quant": "4"}


def test_libraries_of_the_driver_and_nccl_are_recommended_not_required(tmp_path, home, project):
    """A program linked with stubs of libcuda, NCCL and cudart: only cudart becomes a requirement."""
    (tmp_path / "empty.c").write_text("int nothing(void) { return 0; }\n")
    stubs = []
    for soname in ("libcuda.so.1", "libnccl.so.2", "libcudart.so.13"):
        sh("gcc", "-shared", f"-Wl,-soname,{soname}", "-o", tmp_path / soname, tmp_path / "empty.c")
        stubs.append(tmp_path / soname)
    (tmp_path / "main.c").write_text("int main(void) { return 0; }\n")
    binary = home / "rpmbuild/SOURCES/mistralrs-ada"
    binary.unlink()
    sh("gcc", "-Wl,--no-as-needed", "-o", binary, tmp_path / "main.c", *stubs)
    rpm = plain(home, project)
    requires = query(rpm, "--requires")
    assert "libcudart.so.13()(64bit)" in requires
    assert not [line for line in requires if line.startswith(("libcuda.", "libnccl"))]
    assert query(rpm, "--recommends") == ["libcuda.so.1()(64bit)", "libnccl.so.2()(64bit)"]
    assert "mistralrs(driver) = 580" in query(rpm, "--provides")
    assert "It requires NVIDIA's driver 580 or newer (CUDA 13.0)" in "\n".join(query(rpm, "--qf", "%{DESCRIPTION}"))


def test_the_flavour_without_a_gpu_requires_no_driver(home, project):
    rpm = plain(home, project, "0.8.0", "cpu")
    assert query(rpm, "--recommends") == []
    assert not [line for line in query(rpm, "--provides") if "driver" in line]
    assert "It requires no GPU." in query(rpm, "--qf", "%{DESCRIPTION}")


def test_a_package_records_its_commit(tmp_path, program, project):
    package = build(packaging_for(tmp_path, program, project))
    assert package.nevra == "mistralrs-ada-0.8.0-1.fc43.x86_64"
    assert package.commit == COMMIT
    assert package == read_package(Path(package.path))
    assert package == Package.read(Path(package.path).with_name("manifest.json"))
    provides = query(Path(package.path), "--provides")
    assert f"mistralrs(commit) = {COMMIT}" in provides
    assert not [line for line in provides if line.startswith("mistralrs =")], "dnf would choose the flavour"
    assert query(Path(package.path), "--qf", "%{VCS}") == [f"git+https://example.org/mistral.rs.git#{COMMIT}"]


def test_the_whole_set_of_sources(tmp_path, program, project):
    rpm = Path(build(packaging_for(tmp_path, program, project)).path)
    assert {
        "/usr/share/licenses/mistralrs-ada/LICENSE",
        "/usr/share/mistralrs-ada/chat_templates",
        "/usr/share/mistralrs-ada/chat_templates/chatml.json",
    } <= set(query(rpm, "-l"))
    assert query(rpm, "-L") == ["/usr/share/licenses/mistralrs-ada/LICENSE"]
    owners = set(query(rpm, "--qf", "[%{FILEUSERNAME}:%{FILEGROUPNAME}\n]"))
    assert owners == {"root:root"}, "rpm 6 would require the user of another owner, older rpm would not create it"


def test_a_project_that_is_reached_through_a_link_is_packaged(tmp_path, program, project):
    """As a clone below a linked home is."""
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to("real")
    (tmp_path / "project").symlink_to(project)
    assert build(packaging_for(tmp_path / "linked", program, tmp_path / "project")).size


def test_two_builds_give_the_same_bytes(tmp_path, program, project):
    """Also in another folder, at another time, with another umask and other macros in the account's home."""
    first = build(packaging_for(tmp_path / "one", program, project))
    time.sleep(1.1)
    (tmp_path / ".rpmmacros").write_text("%_buildhost elsewhere\n%packager Someone\n")
    before, umask = os.environ["HOME"], os.umask(0o077)
    os.environ["HOME"] = str(tmp_path)
    try:
        second = build(packaging_for(tmp_path / "two", program, project))
    finally:
        os.environ["HOME"] = before
        os.umask(umask)
    assert first.sha256 == second.sha256
    assert query(Path(first.path), "--qf", "%{BUILDTIME}") == [str(SOURCE.commit_time)]


def test_flavours_conflict_on_no_file(tmp_path, program, project):
    """Both own a folder. Neither owns the links of update-alternatives: dnf would choose a flavour by them."""
    packages = [Path(build(packaging_for(tmp_path, program, project, f)).path) for f in (ADA, BLACKWELL)]

    def owned(rpm: Path) -> set[str]:
        lines = query(rpm, "--qf", "[%{FILENAMES} %{FILEFLAGS:fflags} %{FILEMODES:perms}\n]")
        return {line.split()[0] for line in lines if not line.endswith("x---")}

    assert "/usr/bin/mistralrs-ada" in owned(packages[0])
    assert owned(packages[0]).isdisjoint(owned(packages[1]))
    sh("rpm", "--dbpath", tmp_path / "db", "-U", "--test", "--nodeps", "--nosignature", *packages)


def test_rpmlint_finds_no_error(tmp_path, program, project):
    if not shutil.which("rpmlint"):
        pytest.skip("rpmlint is not installed")
    for flavour in (ADA, CPU):
        package = build(packaging_for(tmp_path, program, project, flavour))
        assert "0 errors, 0 warnings" in sh("rpmlint", "-c", project / "rpm/rpmlint.toml", package.path)


@pytest.fixture
def instance(home, project, tmp_path) -> Path:
    """The packaged unit as an instance, with a program that exists."""
    files = unpack(plain(home, project), tmp_path / "files")
    path = tmp_path / "mistralrs-ada@qwen.service"
    path.write_text((files / UNIT).read_text().replace("/usr/bin/mistralrs-ada", str(files / "usr/bin/mistralrs-ada")))
    shutil.copy(path, tmp_path / "mistralrs-ada@.service")
    return path


def test_systemd_finds_nothing_wrong_with_the_unit(instance):
    assert sh("systemd-analyze", "verify", "--man=no", instance) == ""


def test_the_unit_is_exposed_little(instance):
    """The threshold in tenths. The unit explains the exposures that a server with a GPU needs."""
    sh("systemd-analyze", "security", "--offline=true", "--threshold=20", instance)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ('[server]\nhost = "0.0.0.0"\n', 0),
        ('[server]\n  host="::1"\n', 0),
        ("[server]\n#host = 1\nport = 1\n", 78),
    ],
)
def test_a_server_without_an_address_to_listen_on_does_not_start(instance, tmp_path, text, status):
    """Upstream would listen on every interface. The test runs the unit's check as systemd does."""
    (tmp_path / "mistralrs.toml").write_text(text)
    (line,) = [row for row in instance.read_text().splitlines() if row.startswith("ExecStartPre=") and "no host" in row]
    command = line.removeprefix("ExecStartPre=").replace("%d", str(tmp_path)).replace("%i", "qwen").replace("$$", "$")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == status
    if status:
        assert done.stderr == (
            "/etc/mistralrs/qwen.conf names no host in [server]; begin with host = 127.0.0.1, in quotes\n"
        )


# Installs, upgrades and removes packages in a throw-away copy of this machine's file system.
STORY = r"""
set -eu
mount -t tmpfs none "$work/tmpfs"
mkdir "$work/tmpfs/upper" "$work/tmpfs/work" "$work/tmpfs/root"
mount -t overlay -o "lowerdir=/,upperdir=$work/tmpfs/upper,workdir=$work/tmpfs/work" none "$work/tmpfs/root"
cd "$work/tmpfs/root"
mkdir -p packages && cp "$work"/*.rpm packages
mount --rbind /dev dev
mount -t proc proc proc
cat > story <<'END'
set -eu
rpm() { command rpm --dbpath /db --nosignature --nodeps "$@"; }
show() { echo "$1: $(readlink -f /usr/bin/mistralrs || :) $(readlink -f "$units/mistralrs@.service" || :)"; }
units=/usr/lib/systemd/system
wants=/etc/systemd/system/multi-user.target.wants
rpm -U packages/mistralrs-ada-0.8.0-1.x86_64.rpm;       show ada
getent passwd mistralrs | cut -d: -f1,6
rpm -U packages/mistralrs-blackwell-0.8.0-1.x86_64.rpm; show both
update-alternatives --set mistralrs /usr/bin/mistralrs-ada
systemctl enable mistralrs@a.service mistralrs-ada@b.service 2>/dev/null
rpm -U packages/mistralrs-ada-0.9.0-1.x86_64.rpm;       show upgraded
rpm -V mistralrs-ada mistralrs-blackwell
ls $wants | { grep mistralrs || :; } | tr '\n' ' '; echo
rpm -e mistralrs-ada;                                   show without-ada
ls $wants | { grep mistralrs || :; } | tr '\n' ' '; echo
rpm -e mistralrs-blackwell
places="/usr/bin $units /etc/systemd/system /etc/alternatives /usr/share /usr/lib/sysusers.d"
find $places -maxdepth 1 -name 'mistralrs*'
echo end
END
exec chroot . /bin/sh /story
"""


def test_flavours_side_by_side_through_upgrade_and_removal(home, project, tmp_path):
    """The operator's choice survives an upgrade; a flavour's removal disables its units and leaves no file."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs root and a mount namespace")
    blackwell = plain(home, project, "0.8.0", "blackwell", "--define", "mistralrs_priority 120")
    for file in (plain(home, project), plain(home, project, "0.9.0"), blackwell):
        shutil.copy(file, tmp_path)
    (tmp_path / "tmpfs").mkdir()
    output = sh("unshare", "-m", "--propagation", "private", "sh", "-c", STORY, work=str(tmp_path)).splitlines()
    units = "/usr/lib/systemd/system/"
    assert [line for line in output if not line.startswith(("update-alternatives:", "Creating"))] == [
        f"ada: /usr/bin/mistralrs-ada {units}mistralrs-ada@.service",
        "mistralrs:/var/lib/mistralrs",
        f"both: /usr/bin/mistralrs-blackwell {units}mistralrs-blackwell@.service",
        f"upgraded: /usr/bin/mistralrs-ada {units}mistralrs-ada@.service",
        "mistralrs-ada@a.service mistralrs-ada@b.service ",
        f"without-ada: /usr/bin/mistralrs-blackwell {units}mistralrs-blackwell@.service",
        "",
        "end",
    ]


def test_the_module_packages_once(tmp_path, program, project, run_module):
    packaging = packaging_for(tmp_path, program, project)
    arguments = arguments_of(packaging)
    asked = run_module("rpm_package", arguments, check=True)
    assert asked["changed"]
    assert asked["step"]["result"] == "would build mistralrs-ada-0.8.0-1.fc43.x86_64.rpm"
    assert not (tmp_path / "packages").exists()

    first = run_module("rpm_package", arguments)
    assert first["changed"]
    assert Path(first["package"]["path"]).name == "mistralrs-ada-0.8.0-1.fc43.x86_64.rpm"
    assert first["step"]["name"] == "package"
    assert first["step"]["flavour"] == "ada"

    for check in (True, False):
        os.utime(first["package"]["path"], (0, 0))
        again = run_module("rpm_package", arguments, check=check)
        assert not again["changed"]
        assert again["package"] == first["package"]
        # Renewed, so that pruning does not remove a package in use.
        assert (Path(first["package"]["path"]).stat().st_mtime == 0) == check

    released = run_module("rpm_package", arguments | {"package_release": "2"})
    assert released["changed"]
    assert released["package"]["release"] == "2.fc43"


def test_a_damaged_package_is_built_again(tmp_path, program, project):
    packaging = packaging_for(tmp_path, program, project)
    package = build(packaging)
    Path(package.path).write_bytes(b"cut off")
    assert packaging.finished() is None
    assert build(packaging) == package


def test_rpmbuild_that_fails_leaves_no_package(tmp_path, program, project, run_module):
    spec = tmp_path / "rpm"
    shutil.copytree(project / "rpm", spec)
    (spec / "mistralrs.spec").write_text(
        (spec / "mistralrs.spec").read_text().replace("%check\n", "%check\necho no space left >&2; exit 3\n")
    )
    packaging = dataclasses.replace(packaging_for(tmp_path, program, project), spec_folder=spec)
    result = run_module("rpm_package", arguments_of(packaging))
    assert result["failed"]
    assert result["msg"].startswith("rpmbuild could not make mistralrs-ada: error: Bad exit status from")
    log = tmp_path / "log/rpmbuild-ada.log"
    assert str(log) in result["msg"]
    assert "no space left" in log.read_text()
    assert not (tmp_path / "packages").exists()
    assert not (tmp_path / "rpmbuild/ada").exists()


def test_rpmbuild_runs_without_network_and_sees_no_file_of_the_signer(tmp_path, program, project, monkeypatch):
    """The spec of this test looks around in its %check."""
    spec, secret = tmp_path / "rpm", tmp_path / "gnupg"
    shutil.copytree(project / "rpm", spec)
    secret.write_text("a key")
    look = f'%check\ntest ! -e {secret}; test ! -e {Path.home()}/.ssh; test -z "$SECRET"; ! grep -q : /proc/net/route\n'
    (spec / "mistralrs.spec").write_text(
        (spec / "mistralrs.spec").read_text().replace("%check\n", f'{look}test "$(wc -l </proc/net/dev)" = 3\n')
    )
    monkeypatch.setenv("SECRET", "of the caller")
    packaging = dataclasses.replace(packaging_for(tmp_path, program, project), spec_folder=spec)
    assert build(packaging).commit == COMMIT


def test_a_spec_that_makes_another_package_fails(tmp_path, program, project):
    spec = tmp_path / "rpm"
    shutil.copytree(project / "rpm", spec)
    (spec / "mistralrs.spec").write_text(
        (spec / "mistralrs.spec").read_text().replace("= %{mistralrs_commit}", "= " + "1" * 40)
    )
    packaging = dataclasses.replace(packaging_for(tmp_path, program, project), spec_folder=spec)
    with pytest.raises(PipelineError) as caught:
        build(packaging)
    assert caught.value.what == (
        f"rpmbuild made mistralrs-ada-0.8.0-1.fc43.x86_64 of commit {'1' * 40}, "
        f"not mistralrs-ada-0.8.0-1.fc43.x86_64 of {COMMIT}"
    )
    assert packaging.finished() is None


def test_a_file_that_is_no_package_is_named(tmp_path):
    path = tmp_path / "x.rpm"
    path.write_bytes(hashlib.sha256(b"").digest())
    with pytest.raises(PipelineError) as caught:
        read_package(path)
    assert caught.value.what.startswith("not a readable RPM package: error: ")
    assert caught.value.where == str(path)


@pytest.fixture
def named(instance, tmp_path) -> Path:
    """The unit's check of its name as a program, in this test's folders. Arguments: the names of instance and unit."""
    for folder in ("etc", "groups"):
        (tmp_path / folder).mkdir()
    lines = instance.read_text().replace("\\\n", " ").splitlines()
    (line,) = [row for row in lines if row.startswith("ExecStartPre=") and "belongs" in row]
    words = line.removeprefix("ExecStartPre=").removesuffix(" %i %n").replace("$$", "$").replace("%%", "%")
    words = words.replace("/etc/systemd/system", str(tmp_path / "etc"))
    words = words.replace("/sys/fs/cgroup/system.slice", str(tmp_path / "groups"))
    (tmp_path / "named").write_text(f'#!/bin/sh\n{words} "$@"\n')
    (tmp_path / "named").chmod(0o755)
    return tmp_path / "named"


def start(named: Path, unit: str = "mistralrs-ada@qwen.service") -> tuple[int, str]:
    done = subprocess.run([named, "qwen", unit], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_systemctl_enables_a_second_flavour_under_a_name_and_the_unit_does_not_start(home, project, named, tmp_path):
    """systemctl fails, and leaves the second flavour enabled: at the next boot both would start."""
    root = tmp_path / "root"
    units = root / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for flavour in ("ada", "blackwell"):
        rpm = plain(home, project, "0.8.0", flavour)
        files = unpack(rpm, tmp_path / f"files-{flavour}")
        shutil.copy(files / f"usr/lib/systemd/system/mistralrs-{flavour}@.service", units)

    def systemctl(*words: str) -> int:
        argv = ["systemctl", f"--root={root}", *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False).returncode

    def owner() -> None:
        """The alias as the unit of ada sees it on the host."""
        link = tmp_path / "etc/mistralrs@qwen.service"
        link.unlink(missing_ok=True)
        link.symlink_to(root / (root / "etc/systemd/system/mistralrs@qwen.service").readlink().relative_to("/"))

    assert systemctl("enable", "mistralrs-blackwell@qwen") == 0
    owner()
    assert systemctl("enable", "mistralrs-ada@qwen") != 0
    assert systemctl("is-enabled", "mistralrs-ada@qwen") == 0
    assert start(named) == (
        78,
        (
            "The name qwen belongs to mistralrs-blackwell, which is enabled under it. To give it to mistralrs-ada: "
            "systemctl disable --now mistralrs-blackwell@qwen && systemctl enable --now --force mistralrs-ada@qwen. "
            "To leave it: systemctl disable mistralrs-ada@qwen\n"
        ),
    )
    assert systemctl("disable", "mistralrs-blackwell@qwen") == 0
    assert systemctl("enable", "--force", "mistralrs-ada@qwen") == 0
    owner()
    assert start(named) == (0, "")
    wants = root / "etc/systemd/system/multi-user.target.wants"
    assert [path.name for path in wants.iterdir()] == ["mistralrs-ada@qwen.service"]


@pytest.mark.parametrize(
    ("running", "unit", "stop"),
    [
        ("mistralrs-blackwell@qwen", "mistralrs-ada@qwen", True),
        ("mistralrs@qwen", "mistralrs-ada@qwen", True),
        ("mistralrs-ada@qwen", "mistralrs@qwen", True),
        ("mistralrs-ada@qwen", "mistralrs-ada@qwen", False),  # its own
        ("mistralrs-blackwell@large", "mistralrs-ada@qwen", False),
    ],
)
def test_a_name_that_another_unit_serves_is_in_use(named, tmp_path, running, unit, stop):
    template = running.partition("@")[0].replace("-", r"\x2d")
    (tmp_path / f"groups/system-{template}.slice/{running}.service").mkdir(parents=True)
    said = f"The name qwen is in use: {running}.service runs. Stop it first: systemctl stop {running}.service\n"
    assert start(named, f"{unit}.service") == ((78, said) if stop else (0, ""))


def test_an_alias_whose_package_is_gone_owns_nothing(named, tmp_path):
    (tmp_path / "etc/mistralrs@qwen.service").symlink_to("/usr/lib/systemd/system/mistralrs-blackwell@.service")
    assert start(named) == (0, "")
