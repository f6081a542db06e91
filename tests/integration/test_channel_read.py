"""Reading a repository from a folder and over HTTP: valid metadata is read, anything else is an error."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.channel.reader import EMPTY, Published, Repository
from support.signer_site import STABLE, Site, make_signer


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A repository with two snapshots."""
    site = Site.make(tmp_path_factory.mktemp("site"))
    site.publish(site.package("0.9.1"))
    site.publish(site.package("0.9.2"), site.package("0.9.2", flavour="cpu"))
    return site


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.startswith("/broken/"):
            self.send_error(503)
        else:
            super().do_GET()


@pytest.fixture(params=["folder", "http"])
def served(request: pytest.FixtureRequest, site: Site, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A copy of the repository's tree to damage, and its location for the reader."""
    root = tmp_path / "srv"
    shutil.copytree(site.root, root, symlinks=True, ignore=shutil.ignore_patterns(".publisher"))
    if request.param == "folder":
        yield root / STABLE, str(root / STABLE)
        return
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield root / STABLE, f"http://127.0.0.1:{server.server_port}/{STABLE}"
        server.shutdown()


def test_the_head_and_its_packages_are_read(served: tuple[Path, str], site: Site) -> None:
    _, location = served
    published = Repository(location, site.signer.trusted_keys).read()
    assert published.head == site.agent.head("stable")
    assert [package.nevra for package in published.packages] == [
        "mistralrs-ada-0.9.1-1.fc43.x86_64",
        "mistralrs-ada-0.9.2-1.fc43.x86_64",
        "mistralrs-cpu-0.9.2-1.fc43.x86_64",
    ]
    assert [package.path for package in published.packages] == [p.filename for p in published.packages]
    assert Repository(f"{location}/", site.signer.trusted_keys).read() == published


def test_the_state_for_composing_has_the_same_packages(served: tuple[Path, str], site: Site) -> None:
    channel = Repository(served[1], site.signer.trusted_keys)
    state = channel.state(channel.head())
    assert [(p.filename, p.sha256) for p in state.packages] == [(p.path, p.sha256) for p in channel.read().packages]
    assert (state.id, state.record.channel) == (channel.head(), "stable")
    assert channel.findings(state.id) == []


def test_has_finds_files_of_the_pool(served: tuple[Path, str], site: Site) -> None:
    channel = Repository(served[1], site.signer.trusted_keys)
    assert channel.has("mistralrs-ada-0.9.1-1.fc43.x86_64.rpm")
    assert not channel.has("mistralrs-ada-0.9.3-1.fc43.x86_64.rpm")


def test_an_older_snapshot_is_read_by_its_id(served: tuple[Path, str], site: Site) -> None:
    folder, location = served
    first = min(path.name for path in (folder / "snapshots").iterdir())
    assert len(Repository(location, site.signer.trusted_keys).read(first).packages) == 1


def test_a_repository_without_a_mirrorlist_is_empty(served: tuple[Path, str], site: Site) -> None:
    _, location = served
    channel = Repository(f"{location}/unstable", site.signer.trusted_keys)
    assert channel.read() == Published("", 0, ())
    assert channel.state(channel.head()) is EMPTY
    assert not channel.has("mistralrs-ada-0.9.1-1.fc43.x86_64.rpm")


def metadata(folder: Path, name: str) -> Path:
    """A file of the head's repodata, which keeps the files of the snapshot before it too."""
    repodata = folder / "snapshots" / max(path.name for path in (folder / "snapshots").iterdir()) / "repodata"
    if name == "primary":
        text = (repodata / "repomd.xml").read_text()
        (name,) = (path.name for path in repodata.glob("*-primary.xml.gz") if path.name in text)
    return repodata / name


def other_repomd(folder: Path) -> None:
    """The older snapshot's repomd.xml and signature, both good, under the newer's id."""
    old = min((folder / "snapshots").iterdir())
    for name in ("repomd.xml", "repomd.xml.asc"):
        metadata(folder, name).write_bytes((old / "repodata" / name).read_bytes())


def other_record(folder: Path) -> None:
    """The older snapshot's record and signature, both good, as the newer's."""
    old = min((folder / "snapshots").iterdir())
    for name in ("snapshot.json", "snapshot.json.asc"):
        metadata(folder, f"../{name}").write_bytes((old / name).read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: metadata(f, "repomd.xml").write_text("<repomd/>"), "the signature does not fit the file"),
        (
            lambda f: metadata(f, "repomd.xml.asc").write_text("-"),
            "the file has no readable signature",
        ),
        (lambda f: metadata(f, "repomd.xml.asc").unlink(), "repomd.xml.asc is missing"),
        (lambda f: metadata(f, "primary").write_bytes(b"-"), "does not have the digest"),
        (lambda f: metadata(f, "primary").unlink(), "-primary.xml.gz is missing"),
        (lambda f: (f / "mirrorlist").write_text("<html>\n"), "the mirrorlist names no snapshot"),
        (lambda f: metadata(f, "../snapshot.json").write_text("{}"), "the signature does not fit the file"),
        (other_repomd, "is signed, but belongs to another snapshot"),
        (other_record, "is signed, but belongs to another snapshot"),
    ],
)
def test_changed_metadata_is_refused(
    served: tuple[Path, str], site: Site, damage: Callable[[Path], object], message: str
) -> None:
    folder, location = served
    damage(folder)
    with pytest.raises(PipelineError, match=message) as error:
        Repository(location, site.signer.trusted_keys).read()
    assert error.value.where.startswith(location)
    assert error.value.remedy


def test_a_repository_of_another_signer_is_refused(served: tuple[Path, str], tmp_path: Path) -> None:
    other = make_signer(tmp_path / "other")
    with pytest.raises(PipelineError, match=f"by a key that is not trusted .*{other.trusted_keys}"):
        Repository(served[1], other.trusted_keys).read()


@pytest.mark.parametrize("text", [None, "not a key\n"])
def test_a_file_without_trusted_keys_is_named(site: Site, tmp_path: Path, text: str | None) -> None:
    key = tmp_path / "public.asc"
    if text:
        key.write_text(text)
    with pytest.raises(PipelineError, match=f"{key}"):
        Repository(site.channel.location, key).read()


def test_a_failing_server_is_not_an_empty_repository(site: Site) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site.root))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        broken = f"http://127.0.0.1:{server.server_port}/broken"
        with pytest.raises(PipelineError, match="the repository cannot be read: 503 .*Check channel_url"):
            Repository(broken, site.signer.trusted_keys).read()
        server.shutdown()
    with pytest.raises(PipelineError, match=r"the repository cannot be read: .*Check channel_url"):
        Repository(broken, site.signer.trusted_keys).read()
