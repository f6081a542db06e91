"""The signer refuses each key that Fedora's rpm refuses: a table of keys, tried with rpm 6."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from pipeline.sign.strength import weaknesses
from support.systems import forky
from support.weak_keys import KINDS, WeakKey

IMPORT = """
mount --bind "$1" "$2/mnt"
cd "$2/mnt"
for key in *.asc; do
    chroot "$2" rpmkeys --dbpath "/mnt/$key.db" --import "/mnt/$key" >"$key.txt" 2>&1 || echo refused >>"$key.txt"
done
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="requires root to enter the tree with rpm 6")
def test_what_rpm_6_refuses_is_refused(tmp_path: Path) -> None:
    ours: dict[str, str] = {}
    for number, name in enumerate(KINDS):
        key = WeakKey.make(tmp_path / f"home-{number}", name)
        text = key.public(name)
        *_, ours[name] = weaknesses(key.gpg("--list-packets", stdin=text.encode()).decode()).values()
        (tmp_path / f"{number}.asc").write_text(text)
        key.stop()
    subprocess.run(["unshare", "--mount", "sh", "-eu", "-c", IMPORT, "sh", tmp_path, forky()], check=True)
    theirs = {name: (tmp_path / f"{number}.asc.txt").read_text() for number, name in enumerate(KINDS)}
    for name, answer in theirs.items():
        usable = "refused" not in answer and "does not have any usable signing keys" not in answer
        assert usable == (not ours[name]), f"{name}: {answer or 'accepted'}, here: {ours[name]}"
