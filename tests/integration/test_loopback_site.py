"""The local web server: the files it serves, and other servers and programs on its port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pipeline.base.errors import PipelineError
from pipeline.hosts import loopback_site
from pipeline.hosts.loopback_site import Site, served, started, stopped
from support import PROJECT
from support.ports import free_port

DIGEST = "0123456789abcdef" * 4


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    channel = tmp_path / "srv" / "fedora/43/x86_64"
    for name in (
        "mirrorlist",
        "snapshots/one/repodata/repomd.xml",
        f"snapshots/one/repodata/{DIGEST}-primary.xml.gz",
        "Packages/mistralrs-ada-0.9.2-1.fc43.x86_64.rpm",
    ):
        (channel / name).parent.mkdir(parents=True, exist_ok=True)
        (channel / name).write_text(name)
    (channel / "repodata").symlink_to("snapshots/one/repodata")
    secret = tmp_path / "srv/.publisher/stable"
    secret.mkdir(parents=True)
    (secret / "journal").write_text("secret")
    here = Site(tmp_path / "srv", free_port(), tmp_path / "nginx")
    yield here
    stopped(here.state_dir)


def get(site: Site, name: str) -> tuple[int, Mapping[str, str], str]:
    try:
        with urllib.request.urlopen(f"{site.url}/{name}", timeout=5) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, ""


@pytest.mark.parametrize(
    ("name", "freshness"),
    [
        ("mirrorlist", "no-cache"),
        ("repodata/repomd.xml", "no-cache"),
        (f"repodata/{DIGEST}-primary.xml.gz", "immutable"),
        ("snapshots/one/repodata/repomd.xml", "immutable"),
        ("Packages/mistralrs-ada-0.9.2-1.fc43.x86_64.rpm", "immutable"),
        ("Packages/", "no-cache"),
        ("snapshots/", "no-cache"),
    ],
)
def test_files_that_never_change_are_immutable_and_all_others_are_revalidated(
    site: Site, name: str, freshness: str
) -> None:
    assert started(site)
    status, headers, _ = get(site, f"fedora/43/x86_64/{name}")
    assert status == 200
    assert headers["Cache-Control"].endswith(freshness)


def test_the_second_start_changes_nothing_and_stop_leaves_the_port_free(site: Site) -> None:
    assert started(site)
    pid = (site.state_dir / "nginx.pid").read_text()
    assert not started(site)
    assert (site.state_dir / "nginx.pid").read_text() == pid
    assert stopped(site.state_dir)
    assert not stopped(site.state_dir)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", site.port))


def test_dotfiles_are_refused_and_a_missing_file_is_not_cached(site: Site) -> None:
    started(site)
    assert get(site, ".publisher/stable/journal")[0] == 403
    assert get(site, "fedora/../.publisher/stable/journal")[0] == 403
    status, headers, _ = get(site, "fedora/43/x86_64/snapshots/one/none")
    assert (status, headers["Cache-Control"]) == (404, None)


def test_the_server_listens_on_loopback_only(site: Site) -> None:
    started(site)
    listing = subprocess.run(
        ["ss", "-Hltn", f"sport = :{site.port}"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert listing[3] == f"127.0.0.1:{site.port}"


def test_check_mode_starts_and_stops_nothing(site: Site) -> None:
    assert started(site, check=True)
    assert not site.state_dir.exists()
    started(site)
    assert stopped(site.state_dir, check=True)
    assert not started(site)


def test_another_folder_on_the_same_port_replaces_the_server(site: Site, tmp_path: Path) -> None:
    started(site)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/hello").write_text("hello")
    other = Site(tmp_path / "other", site.port, site.state_dir)
    assert started(other)
    assert get(other, "hello")[2] == "hello"
    assert not started(other)


def test_a_server_for_one_proof_outlives_another_run_and_the_operators_own(site: Site) -> None:
    """Two releases at once, beside make serve: each ends when it likes."""

    def page(url: str) -> str:
        with urllib.request.urlopen(f"{url}/fedora/43/x86_64/mirrorlist", timeout=5) as answer:
            return answer.read().decode()

    started(site)
    with served(site.root) as second:
        with served(site.root) as first:
            assert len({site.url, first, second}) == 3
            stopped(site.state_dir)
            assert page(first) == "mirrorlist"
        assert page(second) == "mirrorlist"
    with pytest.raises(urllib.error.URLError):
        page(second)


def test_a_stale_pid_file_is_ignored(site: Site) -> None:
    site.state_dir.mkdir()
    (site.state_dir / "nginx.pid").write_text(f"{os.getpid()}\n")
    assert not stopped(site.state_dir)
    assert started(site)


def test_a_port_that_another_program_holds_fails_with_its_name(site: Site) -> None:
    with socket.create_server(("127.0.0.1", site.port)), pytest.raises(PipelineError) as caught:
        started(site)
    assert f"port {site.port} is taken by" in caught.value.what
    assert f"process {os.getpid()}" in caught.value.what
    assert "local_port" in caught.value.remedy
    assert "make release PORT=" in caught.value.remedy
    assert not site.state_dir.exists()


def test_without_nginx_the_error_names_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback_site.shutil, "which", lambda *_, **__: None)
    with pytest.raises(PipelineError, match="the program nginx is not installed"):
        started(site)


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="the folder to serve does not exist"):
        started(Site(tmp_path / "none", free_port(), tmp_path / "nginx"))


@pytest.mark.parametrize(
    ("stop", "before"),
    [
        (signal.SIGINT, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
        # As a shell without job control starts background processes.
        (signal.SIGTERM, signal.SIG_IGN),
    ],
)
def test_the_foreground_ends_at_a_signal_and_leaves_no_files(
    site: Site, stop: int, before: signal.Handlers, tmp_path: Path
) -> None:
    (tmp_path / "tmp").mkdir()
    mine = signal.signal(signal.SIGINT, before)
    server = subprocess.Popen(
        [sys.executable, "-m", "pipeline.hosts.loopback_site", str(site.root), str(site.port)],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "module_utils"), "TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, mine)
    assert server.stdout is not None
    assert server.stdout.readline().startswith(f"serving {site.root} on {site.url}")
    assert get(site, "fedora/43/x86_64/mirrorlist")[2] == "mirrorlist"
    assert not started(site)  # recognised by its marker
    server.send_signal(stop)
    assert server.wait(timeout=10) == 0
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_module_returns_the_url_of_the_folder(site: Site, run_module: Callable[..., Any]) -> None:
    options = {"root": str(site.root), "port": site.port, "state_dir": str(site.state_dir)}
    stop = {"state": "stopped", "state_dir": str(site.state_dir)}
    assert run_module("loopback_site", options, check=True)["changed"] is True
    first = run_module("loopback_site", options)
    assert (first["changed"], first["url"]) == (True, site.url)
    assert run_module("loopback_site", options)["changed"] is False
    assert run_module("loopback_site", stop)["changed"] is True
    assert run_module("loopback_site", stop)["changed"] is False
    missing = run_module("loopback_site", options | {"root": "/nonexistent"})
    assert missing["msg"] == ("the folder to serve does not exist (/nonexistent). Publish something first")
