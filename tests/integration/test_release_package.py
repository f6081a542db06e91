"""The package mistralrs-release: what it holds, when channels need another one, what retiring a key asks for."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Package, sha256_file
from pipeline.channel import release_package
from pipeline.channel.reader import Channel
from pipeline.channel.release_package import Contents, Row, Seen, check_head, plan, provide, signed_by
from pipeline.package.rpm import read_package
from pipeline.sign import keyring
from pipeline.sign.keyring import Recipe
from pipeline.sign.trust import read_certificates
from support import PROJECT
from support.rotation_site import CHANNELS, Operator, site_repo_file


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator.make(tmp_path)


def sh(*argv: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in argv], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def query(rpm: Path | str, *words: str) -> list[str]:
    return sh("rpm", "-qp", "--nosignature", *words, rpm).splitlines()


def unpacked(rpm: Path | str, folder: Path) -> Path:
    folder.mkdir()
    (folder / "cpio").write_bytes(subprocess.run(["rpm2cpio", rpm], capture_output=True, check=True).stdout)
    with (folder / "cpio").open("rb") as archive:
        subprocess.run(["cpio", "-idm", "--quiet"], stdin=archive, cwd=folder, check=True)
    return folder


# What it holds.


def test_it_holds_the_repo_files_and_every_trusted_key(operator: Operator, tmp_path: Path) -> None:
    operator.introduce()
    (name,) = operator.names()
    assert name == "mistralrs-release-43-1.noarch.rpm"
    rpm = operator.web.root / CHANNELS["stable"]["path"] / "Packages" / name
    files = unpacked(rpm, tmp_path / "files")
    key = files / "etc/pki/rpm-gpg/RPM-GPG-KEY-mistralrs"
    assert key.read_bytes() == operator.public.read_bytes()
    assert len(read_certificates(key)) == 2
    assert query(rpm, "--configfiles") == [
        "/etc/yum.repos.d/mistralrs-unstable.repo",
        "/etc/yum.repos.d/mistralrs.repo",
    ]
    provides = query(rpm, "--provides")
    for fingerprint in read_certificates(operator.public):
        assert f"mistralrs(key) = {fingerprint}" in provides
    assert f"mistralrs(release-content) = {operator.order().contents().digest}" in provides
    assert set(query(rpm, "--qf", "[%{FILEUSERNAME}:%{FILEMODES:octal}\n]")) == {"root:100644"}

    stable, unstable = ((files / "etc/yum.repos.d" / row["repo"]).read_text() for row in CHANNELS.values())
    assert f"mirrorlist={operator.web.url}/fedora/43/x86_64/mirrorlist\n" in stable
    assert "enabled=1\n" in stable
    assert "enabled=0\n" in unstable
    assert "metadata_expire=6h\n" in stable
    assert "metadata_expire=1h\n" in unstable


@pytest.mark.parametrize("channel", CHANNELS)
def test_its_repo_files_are_those_of_the_site_but_for_the_key_and_what_is_enabled(channel: str) -> None:
    url = "https://rpm.example.org"
    ours = Row.of(channel, CHANNELS[channel]).repo_file(url, f"{url}/RPM-GPG-KEY-mistralrs")
    assert ours.replace("enabled=0", "enabled=1") == site_repo_file(channel, url)


def test_the_same_inputs_give_the_same_bytes(operator: Operator, tmp_path: Path) -> None:
    first = provide(operator.order()).package
    other = dataclasses.replace(operator.order(), root=tmp_path / "elsewhere")
    assert (second := provide(other).package).path != first.path
    assert second.sha256 == first.sha256
    assert sha256_file(Path(first.path)) == first.sha256


def test_the_plain_commands_build_it(operator: Operator, tmp_path: Path) -> None:
    sources = tmp_path / "rpmbuild/SOURCES"
    sources.mkdir(parents=True)
    for name, text in operator.order().contents().sources.items():
        (sources / name).write_text(text)
    words = ("rpmbuild", "-bb", PROJECT / "rpm/mistralrs-release.spec", "--define", f"_topdir {tmp_path}/rpmbuild")
    sh(*words, "--define", "mistralrs_fedora 43")
    (rpm,) = (tmp_path / "rpmbuild/RPMS").rglob("*.rpm")
    assert read_package(rpm).nevra == "mistralrs-release-43-1.noarch"
    # A .repo file that does not check what it should is no package.
    (sources / "mistralrs.repo").write_text("[mistralrs]\nbaseurl=http://x\n")
    with pytest.raises(AssertionError):
        sh(*words, "--define", "mistralrs_fedora 43")


def test_rpmlint_finds_nothing(operator: Operator) -> None:
    if not shutil.which("rpmlint"):
        pytest.skip("rpmlint is not installed")
    package = provide(operator.order()).package
    assert "0 errors, 0 warnings" in sh("rpmlint", "-c", PROJECT / "rpm/rpmlint.toml", package.path)


# When another one is needed.

WANTED = Contents(
    "43", "https://x", (Row("stable", "s", "m.repo"), Row("unstable", "u", "n.repo")), {"A": "a"}, 1, "spec"
)
SAME, OTHER = WANTED.digest, "0" * 64


def release(number: int, fedora: str = "43") -> Package:
    return Package("mistralrs-release", fedora, str(number), "noarch", "", "x", "", 1)


def seen(name: str, *packages: tuple[int, str], signer: str = "K", yanked: tuple[str, ...] = ()) -> Seen:
    return Seen(name, "head", signer, tuple((release(number), digest) for number, digest in packages), yanked)


NONE = Seen("stable"), Seen("unstable")


@pytest.mark.parametrize(
    ("channels", "built", "number", "lacking"),
    [
        (NONE, True, "1", "stable unstable"),
        ((seen("stable", (1, SAME)), seen("unstable", (1, SAME))), False, "1", ""),
        ((seen("stable", (1, SAME)), Seen("unstable")), False, "1", "unstable"),
        ((seen("stable", (1, OTHER)), seen("unstable", (1, OTHER), (2, SAME))), False, "2", "stable"),
        ((seen("stable", (1, SAME), (2, OTHER)), seen("unstable", (2, OTHER))), True, "3", "stable unstable"),
        ((seen("stable", (9, OTHER), (10, OTHER)), seen("unstable")), True, "11", "stable unstable"),
        ((seen("stable", (1, SAME), signer="old"), seen("unstable", (1, SAME))), True, "2", "stable unstable"),
        (
            (seen("stable", yanked=("mistralrs-release-43-1.noarch.rpm",)), seen("unstable")),
            True,
            "2",
            "stable unstable",
        ),
    ],
)
def test_what_the_channels_have_decides(channels: tuple[Seen, ...], built: bool, number: str, lacking: str) -> None:
    decided = plan(WANTED, channels, "K")
    assert (decided.built, decided.package.release, " ".join(decided.lacking)) == (built, number, lacking)


def test_a_name_that_the_pool_has_or_another_fedoras_package_is_not_taken_for_it() -> None:
    pool = {"mistralrs-release-43-1.noarch.rpm", "mistralrs-release-43-2.noarch.rpm"}
    assert plan(WANTED, NONE, "K", pool.__contains__).package.release == "3"
    other = Seen("stable", "head", "K", ((release(7, "42"), SAME),))
    assert plan(WANTED, (other,), "K").package.release == "1"


@pytest.mark.parametrize(
    "change",
    [
        {"fedora": "44"},
        {"url": "https://y"},
        {"rows": WANTED.rows[:1]},
        {"rows": (dataclasses.replace(WANTED.rows[0], metadata_expire="1h"), WANTED.rows[1])},
        {"keys": {"A": "a", "B": "b"}},
        {"spec": "other"},
    ],
)
def test_everything_that_goes_into_it_is_in_its_digest(change: dict[str, object]) -> None:
    assert dataclasses.replace(WANTED, **change).digest != WANTED.digest  # type: ignore[arg-type]


# On real channels.


def test_it_is_published_once_in_every_channel_and_again_when_a_key_is_added(operator: Operator) -> None:
    first = operator.publish_release()
    assert (first.built, first.lacking) == (True, ("stable", "unstable"))
    assert operator.names() == operator.names("unstable") == ["mistralrs-release-43-1.noarch.rpm"]
    again = operator.publish_release()
    assert (again.built, again.lacking, again.reason) == (False, (), "published")
    begun = operator.introduce()
    assert begun.successor
    assert operator.names("unstable")[-1] == "mistralrs-release-43-2.noarch.rpm"
    assert operator.publish_release().reason == "published"


def test_one_that_was_killed_halfway_is_finished_with_the_same_file(operator: Operator) -> None:
    planned = provide(operator.order())
    operator.engine().add([operator.sign(planned.package)], reason="killed after the first channel")
    shutil.rmtree(operator.folder / "signer")  # and on another disk
    rest = operator.publish_release()
    assert (rest.built, rest.lacking) == (False, ("unstable",))
    pools = [operator.web.root / row["path"] / "Packages" / rest.package.filename for row in CHANNELS.values()]
    assert len({sha256_file(path) for path in pools}) == 1


def test_after_the_switch_it_has_every_head_signed_by_the_new_key(operator: Operator) -> None:
    operator.publish("0.9.1")
    operator.introduce()
    operator.schedule()
    old = operator.signs()
    new = operator.switch()
    found = check_head("stable", operator.channel(), operator.home)
    assert not found.fits
    assert old.subkey[-16:] in found.found
    operator.publish("0.9.2", "unstable")  # one channel has moved on by itself

    done = operator.publish_release()
    assert done.reason == "for stable to be signed by the present key"
    for name in CHANNELS:
        assert check_head(name, operator.channel(name), operator.home).fits
        assert operator.names(name)[-1] == "mistralrs-release-43-2.noarch.rpm"
    assert operator.signs().fingerprint == new
    assert operator.publish_release().reason == "published"


def test_after_a_rollback_the_next_number_is_one_that_the_pool_never_had(operator: Operator) -> None:
    operator.publish("0.9.1")
    before = operator.channel().head()
    operator.publish_release()
    operator.engine().rollback(before, reason="test")
    assert operator.names() == ["mistralrs-ada-0.9.1-1.fc43.x86_64.rpm"]
    operator.introduce()
    assert operator.names()[-1] == "mistralrs-release-43-2.noarch.rpm"


def test_a_published_one_with_other_bytes_is_refused(operator: Operator) -> None:
    operator.publish_release()
    shutil.rmtree(operator.folder / "signer/release")
    for row in CHANNELS.values():
        pool = operator.web.root / row["path"] / "Packages/mistralrs-release-43-1.noarch.rpm"
        pool.write_bytes(pool.read_bytes() + b"more")
    with pytest.raises(PipelineError, match="does not have the digest that the signed metadata gives .* by hand"):
        operator.publish_release()
    assert not list((operator.folder / "signer/release").rglob("*.rpm"))


@pytest.fixture
def rotated(operator: Operator) -> tuple[Operator, str, str]:
    """An old package, a rotation that is over, a new package; the certificates of both."""
    operator.publish("0.9.1")
    old = operator.signs().fingerprint
    operator.introduce()
    operator.schedule()
    new = operator.switch()
    operator.publish("0.9.2")
    return operator, old, new


@pytest.fixture
def over_http(rotated: tuple[Operator, str, str]) -> Iterator[str]:
    """The stable channel by a server that knows no Range: every answer begins with the whole file."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(rotated[0].web.root))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{CHANNELS['stable']['path']}"
        server.shutdown()


def test_who_signed_a_package_is_read_from_its_header_alone(
    rotated: tuple[Operator, str, str], over_http: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, old, new = rotated
    subkeys = {key.fingerprint: key.subkey for key in release_package.parse_keys(
        release_package.list_public_keys(operator.public))}  # fmt: skip
    expected = {old: ["mistralrs-ada-0.9.1-1.fc43.x86_64.rpm", "mistralrs-release-43-1.noarch.rpm"],
                new: ["mistralrs-ada-0.9.2-1.fc43.x86_64.rpm"]}  # fmt: skip
    for channel in (operator.channel(), Channel(over_http, operator.public)):
        for key, names in expected.items():
            assert [package.filename for package in signed_by(channel, [subkeys[key]])] == names
    assert signed_by(Channel(str(operator.folder / "nowhere"), operator.public), [subkeys[old]]) == []


def test_a_key_is_retired_only_when_no_package_needs_it(rotated: tuple[Operator, str, str]) -> None:
    operator, old, new = rotated
    before, heads = operator.public.read_bytes(), [operator.channel(name).head() for name in CHANNELS]
    with pytest.raises(
        PipelineError, match=f"{old} cannot be retired: 1 published packages .*stable: mistralrs-ada-0.9.1"
    ):
        operator.retire(old)
    with pytest.raises(PipelineError, match=f"{new} cannot be retired: no other key signs"):
        operator.retire(new)
    assert operator.public.read_bytes() == before
    assert [operator.channel(name).head() for name in CHANNELS] == heads

    operator.engine().remove(["mistralrs-ada-0.9.1-1.fc43.x86_64"], reason="its key is not trusted any more", yank=True)
    operator.retire(old)
    assert list(read_certificates(operator.public)) == [new]
    # Everything is verified by the new key alone: the heads, and what a next run does.
    assert operator.names() == ["mistralrs-ada-0.9.2-1.fc43.x86_64.rpm", "mistralrs-release-43-2.noarch.rpm"]
    assert operator.names("unstable") == ["mistralrs-release-43-2.noarch.rpm"], "an older one still holds the key"
    assert operator.publish_release().reason == "published"
    operator.publish("0.9.3")
    files = unpacked(operator.web.root / "mistralrs-release.rpm", operator.folder / "files")
    assert list(read_certificates(files / "etc/pki/rpm-gpg/RPM-GPG-KEY-mistralrs")) == [new]


@pytest.mark.parametrize("steps", range(5))
def test_a_rotation_that_is_stopped_between_its_steps_lets_releases_go_on_and_is_finished_by_the_next_run(
    operator: Operator, steps: int
) -> None:
    """The steps of rotate_key.yml in their order; whatever is released then is by the old key, which all trust."""
    operator.publish_release()
    old = operator.signs().fingerprint
    recipe = Recipe("Test", "test@localhost", operator.folder / "primary", "ed25519")
    order = (
        lambda: keyring.introduce(operator.home, operator.public, recipe=recipe),
        operator.trust,
        lambda: provide(operator.order()),
        operator.publish_release,
        operator.schedule,
    )
    for step in order[:steps]:
        step()
    operator.publish("0.9.1")
    assert operator.signs().fingerprint == old
    trusted = operator.web.root / "RPM-GPG-KEY-mistralrs"
    for name in CHANNELS:
        channel = operator.channel(name)
        subkey = release_package.head_signer(Channel(channel.location, trusted), channel.head())
        assert subkey == operator.signs().subkey

    for step in order:
        step()
    assert operator.switch() != old
    operator.publish("0.9.2")
    operator.publish_release()
    assert operator.publish_release().reason == "published"
    assert len(read_certificates(trusted)) == 2


def test_the_module_says_what_is_needed_and_builds_it(run_module, operator: Operator) -> None:
    order = operator.order()
    arguments = {
        "channels": CHANNELS,
        "location": order.location,
        "url": order.url,
        "fedora": "43",
        "home": str(order.home),
        "trusted_keys": str(order.trusted_keys),
        "root": str(order.root),
        "spec_folder": str(order.spec_folder),
    }
    planned = run_module("release_package", arguments, check=True)
    assert (planned["changed"], planned["needed"], planned["package"]["path"]) == (True, True, "")
    assert not order.root.exists()
    built = run_module("release_package", arguments)
    assert (built["changed"], built["channels"]) == (True, ["stable", "unstable"])
    assert Path(built["package"]["path"]).is_file()
    operator.publish_release()
    done = run_module("release_package", arguments)
    assert (done["changed"], done["needed"], done["channels"]) == (False, False, [])
    assert done["step"]["result"] == "mistralrs-release-43-1.noarch.rpm: published"
    # On a machine where the key is still to be made, check mode says so too.
    none = run_module("release_package", arguments | {"trusted_keys": str(order.root / "none.asc")}, check=True)
    assert (none["needed"], none["channels"]) == (True, [])
    assert "cannot be read" in run_module("release_package", arguments | {"trusted_keys": "/nonexistent"})["msg"]
