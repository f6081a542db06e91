"""The lookup digest: it changes with each input and with nothing else."""

from __future__ import annotations

import importlib.util
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("digest_lookup", PROJECT / "plugins/lookup/digest.py")
assert _spec
assert _spec.loader
lookup = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lookup)


def test_each_input_changes_the_digest(tmp_path: Path) -> None:
    folder, file, missing = tmp_path / "role", tmp_path / "file", tmp_path / "missing"
    (folder / "tasks").mkdir(parents=True)
    (folder / "tasks/main.yml").write_text("a")
    file.write_text("b")

    def digest(values: object = None) -> str:
        found: str = lookup.digest([str(folder), str(file), str(missing)], values)
        return found

    seen = [digest(), digest({"port": 1})]
    (folder / "tasks/main.yml").write_text("b")
    seen.append(digest())
    (folder / "tasks/main.yml").rename(folder / "tasks/other.yml")
    seen.append(digest())
    file.write_text("c")
    seen.append(digest())
    missing.write_text("")
    seen.append(digest())
    assert len(set(seen)) == len(seen)


def test_bytecode_and_times_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("a")
    before = lookup.digest([str(tmp_path)], [])
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/a.pyc").write_text("x")
    (tmp_path / "a.py").touch()
    assert lookup.digest([str(tmp_path)], []) == before
