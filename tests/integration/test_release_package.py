"""The package mistralrs-release: its contents, when channels need a new one, and retiring a key."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Package, sha256_file
from pipeline.channel.reader import Repository
from pipeline.channel.release_package import NAMES, ChannelHead, Contents, decide, provide
from pipeline.channel.repo_file import ChannelRow
from pipeline.channel.signatures import check_head, head_signer, signed_by
from pipeline.package.rpm import read_package
from pipeline.sign.keyring import parse_keys
from pipeline.sign.rotation import introduce
from pipeline.sign.trust import list_public_keys, read_certificates
from support import PROJECT
from support.flavours import FLAVOURS
from support.rotation_site import CHANNELS, Operator
from support.rpms import query, sh, unpack


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator.make(tmp_path)


# Contents.


def test_the_package_holds_the_repo_files_and_every_trusted_key(operator: Operator, tmp_path: Path) -> None:
    operator.introduce()
    chooser, name = operator.every_name()
    assert (chooser, name) == ("mistralrs-43-1.noarch.rpm", "mistralrs-release-43-1.noarch.rpm")
    rpm = operator.web.root / CHANNELS["stable"]["path"] / "Packages" / name
    files = unpack(rpm, tmp_path / "files")
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
    assert f"mistralrs(release-content) = {operator.request().contents().digest}" in provides
    assert set(query(rpm, "--qf", "[%{FILEUSERNAME}:%{FILEMODES:octal}\n]")) == {"root:100644"}

    stable, unstable = ((files / "etc/yum.repos.d" / row["repo"]).read_text() for row in CHANNELS.values())
    assert f"mirrorlist={operator.web.url}/fedora/43/x86_64/mirrorlist\n" in stable
    assert "enabled=1\n" in stable
    assert "enabled=0\n" in unstable
    assert "metadata_expire=6h\n" in stable
    assert "metadata_expire=1h\n" in unstable


def test_the_same_inputs_give_the_same_bytes(operator: Operator, tmp_path: Path) -> None:
    first = provide(operator.request()).packages
    other = dataclasses.replace(
        operator.request(), signer=dataclasses.replace(operator.signer, root=tmp_path / "elsewhere")
    )
    for one, same in zip(first, provide(other).packages, strict=True):
        assert same.path != one.path
        assert same.sha256 == one.sha256 == sha256_file(Path(one.path))


def test_the_plain_commands_build_it(operator: Operator, tmp_path: Path) -> None:
    sources = tmp_path / "rpmbuild/SOURCES"
    sources.mkdir(parents=True)
    for name, text in operator.request().contents().sources.items():
        (sources / name).write_text(text)
    words = ("rpmbuild", "-bb", PROJECT / "rpm/mistralrs-release.spec", "--define", f"_topdir {tmp_path}/rpmbuild")
    sh(*words, "--define", "mistralrs_fedora 43")
    made = sorted((tmp_path / "rpmbuild/RPMS").rglob("*.rpm"))
    assert [read_package(rpm).nevra for rpm in made] == ["mistralrs-43-1.noarch", "mistralrs-release-43-1.noarch"]
    # The spec refuses a .repo file without signature checks.
    (sources / "mistralrs.repo").write_text("[mistralrs]\nbaseurl=http://x\n")
    with pytest.raises(AssertionError):
        sh(*words, "--define", "mistralrs_fedora 43")


def test_rpmlint_finds_nothing(operator: Operator) -> None:
    if not shutil.which("rpmlint"):
        pytest.skip("rpmlint is not installed")
    for package in provide(operator.request()).packages:
        assert "0 errors, 0 warnings" in sh("rpmlint", "-c", PROJECT / "rpm/rpmlint.toml", package.path)


# The decision to build a new package.

WANTED = Contents(
    "43",
    "https://x",
    (ChannelRow("stable", "s", "m.repo"), ChannelRow("unstable", "u", "n.repo")),
    {"A": "a"},
    1,
    "spec",
    "program",
    (),
)
SAME, OTHER = WANTED.digest, "0" * 64


def release(number: int, fedora: str = "43", name: str = NAMES[0]) -> Package:
    return Package(name, fedora, str(number), "noarch", "", "x", "", 1)


def seen(
    name: str, *packages: tuple[int, str], signer: str = "K", yanked: tuple[str, ...] = (), names: str = "both"
) -> ChannelHead:
    """A head with both packages of each number, or only with mistralrs-release."""
    found = [(release(number, name=each), digest) for number, digest in packages for each in NAMES]
    return ChannelHead(
        name, "head", signer, tuple(row for row in found if names == "both" or row[0].name == names), yanked
    )


NONE = ChannelHead("stable"), ChannelHead("unstable")


@pytest.mark.parametrize(
    ("channels", "built", "number", "lacking"),
    [
        (NONE, True, "1", "stable unstable"),
        ((seen("stable", (1, SAME)), seen("unstable", (1, SAME))), False, "1", ""),
        ((seen("stable", (1, SAME)), ChannelHead("unstable")), False, "1", "unstable"),
        ((seen("stable", (1, OTHER)), seen("unstable", (1, OTHER), (2, SAME))), False, "2", "stable"),
        ((seen("stable", (1, SAME), (2, OTHER)), seen("unstable", (2, OTHER))), True, "3", "stable unstable"),
        ((seen("stable", (9, OTHER), (10, OTHER)), seen("unstable")), True, "11", "stable unstable"),
        ((seen("stable", (1, SAME), signer="old"), seen("unstable", (1, SAME))), True, "2", "stable unstable"),
        # As published before there was a package mistralrs, or after one was removed alone.
        ((seen("stable", (1, OTHER), names=NAMES[0]), seen("unstable")), True, "2", "stable unstable"),
        ((seen("stable", (1, SAME), names=NAMES[0]), seen("unstable", (1, SAME))), False, "1", "stable"),
        (
            (
                seen("stable", (1, SAME), names=NAMES[0], yanked=("mistralrs-43-1.noarch.rpm",)),
                seen("unstable", (1, SAME)),
            ),
            True,
            "2",
            "stable unstable",
        ),
        (
            (seen("stable", yanked=("mistralrs-release-43-1.noarch.rpm",)), seen("unstable")),
            True,
            "2",
            "stable unstable",
        ),
    ],
)
def test_the_heads_decide_whether_a_package_is_built(
    channels: tuple[ChannelHead, ...], built: bool, number: str, lacking: str
) -> None:
    decided = decide(WANTED, channels, "K")
    assert (decided.built, decided.package.release, " ".join(decided.lacking)) == (built, number, lacking)


def test_numbers_of_the_pool_and_packages_of_another_fedora_are_skipped() -> None:
    pool = {"mistralrs-release-43-1.noarch.rpm", "mistralrs-release-43-2.noarch.rpm"}
    assert decide(WANTED, NONE, "K", pool.__contains__).package.release == "3"
    other = ChannelHead("stable", "head", "K", ((release(7, "42"), SAME),))
    assert decide(WANTED, (other,), "K").package.release == "1"


@pytest.mark.parametrize(
    "change",
    [
        {"fedora": "44"},
        {"url": "https://y"},
        {"rows": WANTED.rows[:1]},
        {"rows": (dataclasses.replace(WANTED.rows[0], metadata_expire="1h"), WANTED.rows[1])},
        {"keys": {"A": "a", "B": "b"}},
        {"spec": "other"},
        {"program": "other"},
        {"flavours": FLAVOURS[:1]},
    ],
)
def test_every_input_changes_the_digest(change: dict[str, object]) -> None:
    assert dataclasses.replace(WANTED, **change).digest != WANTED.digest  # type: ignore[arg-type]


# On real channels.


def test_the_package_is_published_once_in_every_channel_and_again_for_a_new_key(operator: Operator) -> None:
    first = operator.publish_release()
    assert (first.built, first.lacking) == (True, ("stable", "unstable"))
    assert operator.names() == operator.names("unstable") == ["mistralrs-release-43-1.noarch.rpm"]
    again = operator.publish_release()
    assert (again.built, again.lacking, again.reason) == (False, (), "published")
    begun = operator.introduce()
    assert begun.successor
    assert operator.names("unstable")[-1] == "mistralrs-release-43-2.noarch.rpm"
    assert operator.publish_release().reason == "published"


def test_a_run_killed_halfway_is_finished_with_the_same_file(operator: Operator) -> None:
    planned = provide(operator.request())
    operator.engine().publish(
        [operator.sign(package) for package in planned.packages], reason="killed after the first channel"
    )
    shutil.rmtree(operator.folder / "signer")  # as on another host
    rest = operator.publish_release()
    assert (rest.built, rest.lacking) == (False, ("unstable",))
    pools = [operator.web.root / row["path"] / "Packages" / rest.package.filename for row in CHANNELS.values()]
    assert len({sha256_file(path) for path in pools}) == 1


def test_after_the_switch_every_head_is_signed_by_the_new_key(operator: Operator) -> None:
    operator.publish("0.9.1")
    operator.introduce()
    operator.schedule()
    old = operator.signs()
    new = operator.switch()
    found = check_head("stable", operator.channel(), operator.home)
    assert not found.fits
    assert old.subkey[-16:] in found.found
    operator.publish("0.9.2", "unstable")  # this channel has a new head already

    done = operator.publish_release()
    assert done.reason == "for stable to be signed by the present key"
    for name in CHANNELS:
        assert check_head(name, operator.channel(name), operator.home).fits
        assert operator.names(name)[-1] == "mistralrs-release-43-2.noarch.rpm"
    assert operator.signs().fingerprint == new
    assert operator.publish_release().reason == "published"


def test_after_a_rollback_the_next_number_is_new_to_the_pool(operator: Operator) -> None:
    operator.publish("0.9.1")
    before = operator.channel().head()
    operator.publish_release()
    operator.engine().rollback(before, reason="test")
    assert operator.names() == ["mistralrs-ada-0.9.1-1.fc43.x86_64.rpm"]
    operator.introduce()
    assert operator.names()[-1] == "mistralrs-release-43-2.noarch.rpm"


def test_a_published_package_with_other_bytes_is_refused(operator: Operator) -> None:
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
    """An old package, a finished rotation, a new package; the certificates of both."""
    operator.publish("0.9.1")
    old = operator.signs().fingerprint
    operator.introduce()
    operator.schedule()
    new = operator.switch()
    operator.publish("0.9.2")
    return operator, old, new


@pytest.fixture
def over_http(rotated: tuple[Operator, str, str]) -> Iterator[str]:
    """The stable channel on a server without Range support, which always sends the whole file."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(rotated[0].web.root))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{CHANNELS['stable']['path']}"
        server.shutdown()


def test_the_signer_of_a_package_is_read_from_its_header_alone(
    rotated: tuple[Operator, str, str], over_http: str
) -> None:
    operator, old, new = rotated
    subkeys = {key.fingerprint: key.subkey for key in parse_keys(list_public_keys(operator.public))}
    expected = {
        old: [
            "mistralrs-43-1.noarch.rpm",
            "mistralrs-ada-0.9.1-1.fc43.x86_64.rpm",
            "mistralrs-release-43-1.noarch.rpm",
        ],
        new: ["mistralrs-ada-0.9.2-1.fc43.x86_64.rpm"],
    }
    for channel in (operator.channel(), Repository(over_http, operator.public)):
        for key, names in expected.items():
            assert [package.filename for package in signed_by(channel, [subkeys[key]])] == names
    assert signed_by(Repository(str(operator.folder / "nowhere"), operator.public), [subkeys[old]]) == []


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
    # The new key alone verifies the heads and the next run.
    assert operator.names() == ["mistralrs-ada-0.9.2-1.fc43.x86_64.rpm", "mistralrs-release-43-2.noarch.rpm"]
    assert operator.names("unstable") == ["mistralrs-release-43-2.noarch.rpm"], "an older one still holds the key"
    assert operator.publish_release().reason == "published"
    operator.publish("0.9.3")
    files = unpack(operator.web.root / "mistralrs-release.rpm", operator.folder / "files")
    assert list(read_certificates(files / "etc/pki/rpm-gpg/RPM-GPG-KEY-mistralrs")) == [new]


@pytest.mark.parametrize("steps", range(5))
def test_a_rotation_stopped_between_its_steps_does_not_block_releases_and_is_finished_by_the_next_run(
    operator: Operator, steps: int
) -> None:
    """The steps of rotate_key.yml in their order; releases between them are signed by the old, trusted key."""
    operator.publish_release()
    old = operator.signs().fingerprint
    order = (
        lambda: introduce(operator.signer, operator.recipe),
        operator.trust,
        lambda: provide(operator.request()),
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
        subkey = head_signer(Repository(channel.location, trusted), channel.head())
        assert subkey == operator.signs().subkey

    for step in order:
        step()
    assert operator.switch() != old
    operator.publish("0.9.2")
    operator.publish_release()
    assert operator.publish_release().reason == "published"
    assert len(read_certificates(trusted)) == 2


def test_the_module_builds_the_package_if_needed(run_module, operator: Operator) -> None:
    request, root = operator.request(), operator.signer.root
    signer = {"root": str(root), "home": str(operator.home), "trusted_keys": str(operator.public)}
    arguments = {
        "channels": CHANNELS,
        "location": request.location,
        "url": request.url,
        "fedora": "43",
        "signer": signer,
        "spec_folder": str(request.spec_folder),
        "flavours": [flavour.to_dict() for flavour in FLAVOURS],
    }
    planned = run_module("release_package", arguments, check=True)
    assert (planned["changed"], planned["needed"], planned["packages"][0]["path"]) == (True, True, "")
    assert not root.exists()
    built = run_module("release_package", arguments)
    assert (built["changed"], built["channels"]) == (True, ["stable", "unstable"])
    assert [Path(package["path"]).is_file() for package in built["packages"]] == [True, True]
    operator.publish_release()
    done = run_module("release_package", arguments)
    assert (done["changed"], done["needed"], done["channels"]) == (False, False, [])
    assert done["step"]["result"] == "mistralrs-release-43-1.noarch.rpm: published"
    # On a host without a key yet, check mode reports the first package.
    keyless = arguments | {"signer": signer | {"trusted_keys": str(root / "none.asc")}}
    none = run_module("release_package", keyless, check=True)
    assert (none["needed"], none["channels"]) == (True, [])
    assert "the trusted keys cannot be read" in run_module("release_package", keyless)["msg"]
