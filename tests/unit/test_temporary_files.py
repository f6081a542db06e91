"""Temporary files: the folder that TMPDIR names is looked at, used, and named where it is full."""

from __future__ import annotations

import errno
import json
import tempfile
from pathlib import Path

import pytest
from ansible.module_utils import pipeline_module
from ansible.module_utils.testing import patch_module_args
from pipeline.base.git import has
from pipeline.base.run import DiskFull
from pipeline.build.failures import CompileFailed, explain
from pipeline.check import builder, trials

MIB = 1 << 20


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """TMPDIR, a folder with a blank in its name."""
    folder = tmp_path / "large disk"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_the_check_looks_at_the_folder_that_is_used(elsewhere: Path) -> None:
    fits = builder.check_temporary(tempfile.gettempdir(), 300 * MIB, f"{elsewhere}/")
    assert (fits.fits, fits.found) == (True, f"300 MiB free in {elsewhere} (TMPDIR)")
    small = builder.check_temporary("/tmp", 12 * MIB, "")
    assert (small.fits, small.found, small.needed) == (False, "12 MiB free in /tmp", "256 MiB")
    assert small.remedy.startswith(
        "Free space in /tmp, or set TMPDIR for the account that builds to a folder on a larger"
    )


def test_a_tmpdir_that_is_no_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python then takes /tmp in silence, and compilers fail."""
    monkeypatch.setenv("TMPDIR", "/nonexistent/tmp")
    monkeypatch.setattr(tempfile, "tempdir", None)
    finding = builder.check_temporary(tempfile.gettempdir(), 300 * MIB, "/nonexistent/tmp")
    assert (finding.fits, finding.found) == (False, "TMPDIR=/nonexistent/tmp, which is no writable folder")
    assert "unset TMPDIR" in finding.remedy


def test_trial_compiles_put_their_temporary_files_there(elsewhere: Path) -> None:
    program = "int main(void) { return 0; }"
    assert trials.alone(["sh", "-c", 'echo "error $TMPDIR"; exit 1'], "/usr/bin:/bin") == f"error {elsewhere}"
    (elsewhere / "x.c").write_text(program)
    elsewhere.chmod(0o755)
    assert trials.alone(["gcc", "-pipe", "-o", elsewhere / "x", elsewhere / "x.c"], "/usr/bin:/bin") == ""


def test_git_on_a_full_disk_is_not_taken_for_what_its_failures_mean(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To those who call git a failure is a partial clone, or an unknown commit."""
    program = tmp_path / "bin/git"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n[ $1 != config ] || exit 1\necho fatal: write error: No space left on device >&2\nexit 128\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    with pytest.raises(DiskFull) as caught:
        has(tmp_path, "HEAD")
    message = caught.value.failure()["msg"]
    assert message.startswith("git ended with status 128: fatal: write error: No space left on device (git ")
    assert f"Free space there, then run again. Temporary files lie in {elsewhere}, which has " in message
    assert message.endswith(" MiB free: TMPDIR names a folder on another disk")


def test_a_compile_has_its_own_and_says_where(elsewhere: Path) -> None:
    message = CompileFailed(explain(["error: x", "  No space left on device (os error 28)"]), "/b/log").failure()["msg"]
    assert "a build's /tmp is scratch/ there, whatever TMPDIR is" in message
    assert str(elsewhere) not in message


@pytest.mark.parametrize(("number", "name"), [(errno.ENOSPC, "/srv/x"), (errno.EDQUOT, None)])
def test_a_module_without_space_ends_without_a_traceback(
    number: int, name: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(_: object) -> dict[str, object]:
        raise OSError(number, {errno.ENOSPC: "No space left on device"}.get(number, "Disk quota exceeded"), name)

    with patch_module_args({}), pytest.raises(SystemExit):
        pipeline_module.run(work, {})
    result = json.loads(capsys.readouterr().out)
    assert result["failed"]
    assert result["msg"].startswith("a file cannot be written: ")
    assert "Temporary files lie in " in result["msg"]
    assert ("/srv/x" in result["msg"]) == bool(name)
