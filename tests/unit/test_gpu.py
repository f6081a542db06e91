"""The flavour for a GPU: nvidia-smi's output against the project's own table."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.flavours import fitting
from pipeline.base.records import Flavour
from pipeline.hosts.gpu import choose, find_gpus, on_bus, parse

RTX_4090 = "NVIDIA GeForce RTX 4090, 8.9, 580.65.06\n"
RTX_3090 = "NVIDIA GeForce RTX 3090, 8.6, 580.65.06\n"
RTX_5090 = "NVIDIA GeForce RTX 5090, 12.0, 595.10\n"
H100 = "NVIDIA H100 80GB HBM3, 9.0, 580.95.05\n"


@pytest.fixture(scope="session")
def table(flavours: dict[str, dict[str, object]]) -> list[Flavour]:
    return [Flavour.from_dict(row) for row in flavours.values()]


@pytest.mark.parametrize(
    ("answer", "flavour"),
    [
        (RTX_3090, "ampere"),
        (RTX_4090, "ada"),
        (RTX_4090 * 4, "ada"),
        (RTX_5090, "blackwell"),
        ("NVIDIA RTX A2000, Laptop GPU, 8.6, 610.2\n", "ampere"),  # a name with a comma
    ],
)
def test_the_flavour_is_the_one_built_for_the_gpu(table: list[Flavour], answer: str, flavour: str) -> None:
    choice = choose(parse(answer), table)
    assert choice.flavour.name == flavour
    assert choice.reason.endswith(f"built for {choice.flavour.compute_capability}")
    assert choice.warnings == ()


def test_no_flavour_fits(table: list[Flavour]) -> None:
    with pytest.raises(PipelineError) as error:
        choose(parse(H100), table)
    assert error.value.what == "there is no flavour for NVIDIA H100 80GB HBM3 (9.0)"
    assert "ampere (8.6: NVIDIA RTX 30, A2000 to A6000), ada (8.9:" in error.value.remedy
    assert "cpu (no GPU: any x86-64 processor, no GPU)" in error.value.remedy


def test_the_driver_is_below_the_floor(table: list[Flavour]) -> None:
    with pytest.raises(PipelineError) as error:
        choose(parse(RTX_5090.replace("595.10", "580.65.06")), table)
    assert error.value.what == (
        "this host's NVIDIA driver is 580.65.06, and mistralrs-blackwell needs 595 or newer (CUDA 13.2)"
    )
    assert error.value.remedy.startswith("Install driver 595 or newer from NVIDIA's CUDA repository for Fedora")


@pytest.mark.parametrize("other", [RTX_3090, "NVIDIA T400, 7.5, 580.65.06\n"])
def test_gpus_of_several_generations(table: list[Flavour], other: str) -> None:
    with pytest.raises(PipelineError) as error:
        choose(parse(RTX_4090 + other), table)
    assert "of different generations: NVIDIA GeForce RTX 4090 (8.9) needs mistralrs-ada; " in error.value.what
    assert "Choose one with mistralrs_flavour" in error.value.remedy
    assert "CUDA_VISIBLE_DEVICES" in error.value.remedy
    assert choose(parse(RTX_4090 + other), table, "ada").warnings == ()


@pytest.mark.parametrize(
    ("capability", "built_for", "taken"),
    [
        ("8.9", ["8.6"], "8.6"),  # the same major number: its code runs
        ("8.9", ["8.0", "8.6"], "8.6"),  # the nearest
        ("8.9", ["8.6", "8.9"], "8.9"),  # an exact match first
        ("8.6", ["8.9"], None),  # not downwards
        ("9.0", ["8.9"], None),  # not across generations, whatever PTX there is
        ("12.1", ["12.0"], None),  # sm_120a is for 12.0 alone
        ("8.9", [""], None),  # the flavour without a GPU is never chosen
    ],
)
def test_which_code_runs_on_a_gpu(capability: str, built_for: list[str], taken: str | None) -> None:
    rows = [Flavour(f"for{number}", "", own) for number, own in enumerate(built_for)]
    found = fitting(capability, rows)
    assert (found.compute_capability if found else None) == taken


def test_a_compatible_flavour_is_taken_and_explained(table: list[Flavour]) -> None:
    choice = choose(parse(RTX_4090), [row for row in table if row.name != "ada"])
    assert choice.reason == "NVIDIA GeForce RTX 4090 (8.9): built for 8.6, whose code 8.9 runs too"


def test_a_named_flavour_is_taken_with_warnings(table: list[Flavour]) -> None:
    assert choose((), table, "cpu").warnings == ()
    assert choose((), table, "ada").flavour.name == "ada"
    first, second = choose(parse(RTX_4090), table, "blackwell").warnings
    assert "built for compute capability 12.0, and this host has NVIDIA GeForce RTX 4090 (8.9)" in first
    assert "needs 595 or newer" in second


def test_a_name_that_is_no_flavour(table: list[Flavour]) -> None:
    with pytest.raises(PipelineError, match=r"there is no flavour 'hopper' \(mistralrs_flavour\). There are: ampere"):
        choose((), table, "hopper")


@pytest.mark.parametrize("answer", ["Tesla K80, [N/A], 470.1\n", "garbage\n", "a, 8, 580\n", "a, 8.9, \n"])
def test_an_unknown_output_fails(answer: str) -> None:
    with pytest.raises(PipelineError, match="has no compute capability and driver"):
        parse(answer)


# ---------------------------------------------------------------- a host


def program(folder: Path, script: str) -> str:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def device(folder: Path, vendor: str, kind: str) -> Path:
    (folder / "0000:01:00.0").mkdir(parents=True)
    (folder / "0000:01:00.0/vendor").write_text(f"{vendor}\n")
    (folder / "0000:01:00.0/class").write_text(f"{kind}\n")
    return folder


def test_a_host_without_gpu_differs_from_one_without_driver(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="this host has neither an NVIDIA GPU nor no-such-smi.*cpu needs no GPU"):
        find_gpus("no-such-smi", tmp_path)
    with pytest.raises(PipelineError, match="this host has an NVIDIA GPU, but no no-such-smi.*Install the driver"):
        find_gpus("no-such-smi", device(tmp_path / "pci", "0x10de", "0x030000"))


@pytest.mark.parametrize(
    ("vendor", "kind", "found"),
    [("0x10de", "0x030200", True), ("0x1002", "0x030000", False), ("0x10de", "0x040300", False)],
)
def test_a_gpu_is_a_display_controller_of_nvidia(tmp_path: Path, vendor: str, kind: str, found: bool) -> None:
    assert on_bus(device(tmp_path, vendor, kind)) is found


def test_a_driver_that_does_not_answer(tmp_path: Path) -> None:
    error = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    with pytest.raises(
        PipelineError, match="finds no working GPU: NVIDIA-SMI has failed.*Check that the driver is loaded"
    ):
        find_gpus(program(tmp_path, f'echo "{error}"; exit 9'))


def test_the_module_returns_the_package(tmp_path: Path, run_module, flavours: dict[str, dict[str, object]]) -> None:
    done = run_module(
        "nvidia_gpu", {"flavours": [*flavours.values()], "program": program(tmp_path, f"printf '{RTX_4090}'")}
    )
    assert (done["changed"], done["package"], done["gpus"][0]["driver"]) == (False, "mistralrs-ada", "580.65.06")


def test_the_module_warns_if_it_cannot_check_the_named_flavour(
    run_module, flavours: dict[str, dict[str, object]]
) -> None:
    named = {"flavours": [*flavours.values()], "program": "no-such-smi", "flavour": "ada"}
    assert "mistralrs-ada is not checked against the GPUs" in str(run_module("nvidia_gpu", named)["warnings"])
    assert run_module("nvidia_gpu", named | {"flavour": "cpu"})["package"] == "mistralrs-cpu"
    assert "neither an NVIDIA GPU" in run_module("nvidia_gpu", named | {"flavour": ""})["msg"]
