"""Root provisions hosts on which other accounts own folders: links that they put there lead root nowhere."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import PROJECT

ACCOUNT = "daemon"  # stands for gitea_ci: an account with a group of its name, on every system
GIVEN = {
    # Paths that root's tasks give to another account, or to its group. The folder above is root's alone.
    ("publisher", "{{ publisher_root }}/{{ item }}"),
    ("builder", "{{ builder_root }}"),
    # The folder is the server's, but Ansible replaces a link at the path of a file by the file.
    ("cache_server", "{{ __cache_server_folder }}/mistralrs-cache.{{ item.kind }}"),
    ("cache_server", "{{ __cache_server_folder }}/mistralrs-cache.conf"),
}


def owner(path: Path) -> str:
    return pwd.getpwuid(path.lstat().st_uid).pw_name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders to other accounts")
def test_links_of_the_publishing_account_give_it_nothing_of_roots(tmp_path: Path) -> None:
    """In the place of a repository inside its own, and above one."""
    published = tmp_path / "srv/fedora/43/x86_64"
    published.mkdir(parents=True)
    victims = {name: tmp_path / name for name in ("victim", "other")}
    for victim in victims.values():
        victim.mkdir(0o700)
    (published / "unstable").symlink_to(victims["victim"])
    (published / "above").symlink_to(victims["other"])
    account = pwd.getpwnam(ACCOUNT)
    for path in (published, published / "unstable", published / "above"):
        os.lchown(path, account.pw_uid, account.pw_gid)

    (tmp_path / "trusted.asc").touch()
    variables = {
        "publisher_account": ACCOUNT,
        "publisher_root": str(tmp_path / "srv"),
        "publisher_base_url": "http://repo",
        "publisher_key": str(tmp_path / "trusted.asc"),
        "publisher_channels": {
            "stable": {"path": "fedora/43/x86_64"},
            "unstable": {"path": "fedora/43/x86_64/unstable"},
            "nightly": {"path": "fedora/43/x86_64/above/nightly"},
            "next": {"path": "fedora/44/x86_64"},
        },
        "publisher_program": str(tmp_path / "libexec/mistralrs-publisher"),
        "publisher_config": str(tmp_path / "etc/publisher.json"),
    }
    tasks = [{"import_role": {"name": "publisher", "tasks_from": "agent"}}]
    run_play(tmp_path, [{"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": tasks}])

    for victim in victims.values():
        assert (owner(victim), victim.stat().st_mode & 0o777, list(victim.iterdir())) == ("root", 0o700, [])
    assert (published / "unstable").is_symlink()
    made = [tmp_path / "srv" / name for name in ("fedora/43/x86_64", "fedora/44/x86_64", ".publisher")]
    assert [owner(path) for path in made] == [ACCOUNT] * 3
    assert [owner(path.parent) for path in made] == ["root"] * 3


def run_play(folder: Path, play: list[dict[str, Any]]) -> None:
    (folder / "ansible.cfg").touch()
    (folder / "play.yml").write_text(json.dumps(play))
    paths = {"ROLES_PATH": "roles", "LIBRARY": "library", "MODULE_UTILS": "module_utils"}
    environment = {f"ANSIBLE_{name}": str(PROJECT / path) for name, path in paths.items()}
    words = ["-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"]
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", *words, folder / "play.yml"],
        env={**os.environ, "ANSIBLE_CONFIG": str(folder / "ansible.cfg"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "failed=0" in done.stdout, done.stdout + done.stderr


def tasks_in(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tasks of a file, with those of its blocks."""
    inner = [task.get(part) or [] for task in tasks for part in ("block", "rescue", "always")]
    return [*tasks, *(task for part in inner for task in tasks_in(part))]


def test_every_path_that_root_gives_away_is_listed() -> None:
    """A new one needs a look: may the account, or a build, replace a folder of that path by a link?"""
    given = set()
    for file in PROJECT.glob("roles/*/tasks/*.yml"):
        for task in tasks_in(yaml.safe_load(file.read_text()) or []):
            modules = [arguments for arguments in task.values() if isinstance(arguments, dict)]
            for arguments in modules:
                accounts = {arguments.get("owner"), arguments.get("group")}
                if accounts - {"root", None}:
                    given.add((file.parts[-3], arguments.get("path") or arguments.get("dest")))
    assert given == GIVEN
