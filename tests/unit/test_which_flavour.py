"""mistralrs-which-flavour: the real program with a stand-in of nvidia-smi, beside the role's own choice."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.flavours import table
from pipeline.base.records import Flavour
from pipeline.hosts.gpu import choose, parse

PROGRAM = "mistralrs-which-flavour"
TABLE = """\
The packages of mistral.rs:
  sudo dnf install mistralrs-ampere    # NVIDIA RTX 30, A2000 to A6000 (compute capability 8.6, driver 580 or newer)
  sudo dnf install mistralrs-ada    # NVIDIA RTX 40, L4, L40 (compute capability 8.9, driver 580 or newer)
  sudo dnf install mistralrs-blackwell    # NVIDIA RTX 50 (compute capability 12.0, driver 595 or newer)
"""
ADA = "NVIDIA GeForce RTX 4090, 8.9, 580.65.06"
AMPERE = "NVIDIA RTX A2000, Laptop GPU, 8.6, 580.65.06"


@pytest.fixture
def rows(flavours: dict[str, dict[str, object]]) -> list[Flavour]:
    return [Flavour.from_dict(row) for row in flavours.values()]


@pytest.fixture
def installed(tmp_path: Path, project: Path, rows: list[Flavour]) -> Path:
    """The package's files below a root, without a GPU in it."""
    for folder in ("usr/bin", "usr/share/mistralrs", "devices/0000:01:00.0", "tools"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(project / "rpm" / PROGRAM, tmp_path / "usr/bin")
    (tmp_path / "usr/share/mistralrs/flavours").write_text(table(rows))
    return tmp_path


def ask(installed: Path, answer: str | None = None, status: int = 0) -> tuple[int, str]:
    """Its exit status and output, where nvidia-smi prints ``answer``; None: there is no nvidia-smi."""
    smi = installed / "tools/nvidia-smi"
    if answer is not None:
        smi.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\nexit {status}\n")
        smi.chmod(0o755)
    (installed / "tools/cat").symlink_to("/bin/cat")
    environment = {"PATH": str(installed / "tools"), "MISTRALRS_PCI_DEVICES": str(installed / "devices")}
    program = installed / "usr/bin" / PROGRAM
    done = subprocess.run(["/bin/sh", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_the_package_for_the_gpu_is_named(installed: Path) -> None:
    assert ask(installed, f"{ADA}\n{ADA}") == (
        0,
        "NVIDIA GeForce RTX 4090 (compute capability 8.9): mistralrs-ada\n" * 2 + "  sudo dnf install mistralrs-ada\n",
    )


def test_gpus_of_two_generations_have_two_packages(installed: Path) -> None:
    assert ask(installed, f"{AMPERE}\n{ADA}") == (
        0,
        (
            "NVIDIA RTX A2000, Laptop GPU (compute capability 8.6): mistralrs-ampere\n"
            "NVIDIA GeForce RTX 4090 (compute capability 8.9): mistralrs-ada\n"
            "Packages for several GPU generations can be installed side by side, or one for the GPUs that you use:\n"
            "  sudo dnf install mistralrs-ampere mistralrs-ada\n"
        ),
    )


def test_a_driver_that_is_too_old_is_named(installed: Path) -> None:
    assert ask(installed, ADA.replace("580", "570")) == (
        1,
        (
            "NVIDIA GeForce RTX 4090 (compute capability 8.9): mistralrs-ada\n"
            "Its driver is 570.65.06, and mistralrs-ada requires 580 or newer: update NVIDIA's driver.\n"
            "  sudo dnf install mistralrs-ada\n"
        ),
    )


def test_a_gpu_without_a_package_is_named(installed: Path) -> None:
    assert ask(installed, "NVIDIA H100 80GB HBM3, 9.0, 580.95.05") == (
        1,
        f"NVIDIA H100 80GB HBM3 (compute capability 9.0): no package is built for it\n{TABLE}",
    )


@pytest.mark.parametrize(
    ("vendor", "kind", "words"),
    [
        ("0x10de", "0x030000", "This host has an NVIDIA GPU, but no nvidia-smi: install NVIDIA's driver, then run"),
        ("0x10de", "0x040300", "This host has no NVIDIA GPU."),
        ("0x1002", "0x030000", "This host has no NVIDIA GPU."),
    ],
)
def test_without_nvidia_smi_the_bus_tells_a_missing_driver_from_a_missing_gpu(
    installed: Path, vendor: str, kind: str, words: str
) -> None:
    device = installed / "devices/0000:01:00.0"
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    status, output = ask(installed)
    assert status == 1
    assert output.startswith(words)
    assert output.endswith(TABLE)


def test_what_nvidia_smi_complains_of_is_shown(installed: Path) -> None:
    status, output = ask(installed, 'Field "compute_cap" is not a valid field to query.\nmore', 2)
    assert status == 1
    assert output.startswith(
        "nvidia-smi finds no working GPU with a known compute capability: "
        'Field "compute_cap" is not a valid field to query. Update NVIDIA\'s driver.\n'
    )
    assert output.endswith(TABLE)


@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "12.0", "12.1"])
def test_it_agrees_with_the_role(installed: Path, rows: list[Flavour], capability: str) -> None:
    line = f"NVIDIA GPU, {capability}, 700.1"
    try:
        expected = f"  sudo dnf install {choose(parse(line), rows).flavour.package_name}\n"
    except PipelineError:
        expected = f"(compute capability {capability}): no package is built for it\n{TABLE}"
    assert ask(installed, line)[1].endswith(expected)


def test_a_published_flavour_without_a_gpu_is_listed(installed: Path, rows: list[Flavour]) -> None:
    cpu = Flavour("cpu", "any x86-64 processor, no GPU")
    (installed / "usr/share/mistralrs/flavours").write_text(table([*rows, cpu]))
    assert ask(installed)[1].endswith("  sudo dnf install mistralrs-cpu    # any x86-64 processor, no GPU\n")
