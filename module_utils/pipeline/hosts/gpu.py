"""The flavour for a host's GPUs.

Rules:

1. nvidia-smi, a program of the driver, names each GPU with its compute capability and driver.
2. ``base.flavours`` has the flavour for a GPU.
3. All GPUs of a host must need the same flavour; otherwise the operator chooses it, and the GPUs of each instance
   (CUDA_VISIBLE_DEVICES).
4. A driver older than the flavour requires is an error: the server would fail with UNSUPPORTED_PTX_VERSION.
5. A flavour that the operator names is taken. Contradictions become warnings, since the host may be an image whose GPU
   comes later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PipelineError
from ..base.flavours import fitting, number
from ..base.records import Flavour, Record
from ..base.run import CommandFailed, ProgramMissing, run

PROGRAM = "nvidia-smi"
QUERY = ("--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader")
VARIABLE = "mistralrs_flavour"
TIMEOUT = 60
"""Seconds. Without nvidia-persistenced the driver starts each GPU for the answer, which takes some seconds."""

GET_DRIVER = "from NVIDIA's CUDA repository for Fedora, or from the source of this host's driver, and reboot"


@dataclass(frozen=True)
class Gpu(Record):
    """One line of nvidia-smi's output: "NVIDIA GeForce RTX 4090", "8.9", "580.65.06"."""

    name: str
    compute_capability: str
    driver: str

    def __str__(self) -> str:
        return f"{self.name} ({self.compute_capability})"


@dataclass(frozen=True)
class Choice:
    """The flavour to install, the reason, and warnings about it."""

    flavour: Flavour
    reason: str
    warnings: tuple[str, ...] = ()


# ---------------------------------------------------------------- decisions


def parse(output: str) -> tuple[Gpu, ...]:
    """The GPUs in nvidia-smi's output; PipelineError if that is not the table of ``QUERY``."""
    gpus = []
    for line in filter(str.strip, output.splitlines()):
        fields = [field.strip() for field in line.rsplit(",", 2)]
        if len(fields) != 3 or number(fields[1]) is None or not fields[2][:1].isdigit():
            raise PipelineError(
                f"nvidia-smi printed {line.strip()!r}, which has no compute capability and driver",
                PROGRAM,
                f"Install a newer driver {GET_DRIVER}; or name the flavour with {VARIABLE}",
            )
        gpus.append(Gpu(*fields))
    return tuple(gpus)


def choose(gpus: Sequence[Gpu], flavours: Sequence[Flavour], named: str = "") -> Choice:
    """The flavour for a host with these GPUs, or the one that the operator named."""
    if named:
        return _named(gpus, flavours, named)
    if not gpus:
        raise PipelineError(
            "nvidia-smi lists no GPU", PROGRAM, f"Look for it with lspci; or name the flavour with {VARIABLE}"
        )
    fits = {gpu: fitting(gpu.compute_capability, flavours) for gpu in gpus}
    chosen = set(fits.values())
    if len(chosen) > 1:
        listed = "; ".join(f"{gpu} needs {f.package_name if f else 'none'}" for gpu, f in fits.items())
        raise PipelineError(
            f"the GPUs of this host are of different generations: {listed}",
            PROGRAM,
            f"Choose one with {VARIABLE}, and the GPUs for it with CUDA_VISIBLE_DEVICES in the instances' environment",
        )
    (flavour,) = chosen
    if flavour is None:
        raise PipelineError(
            f"there is no flavour for {', '.join(dict.fromkeys(map(str, gpus)))}",
            PROGRAM,
            f"There are: {_listed(flavours)}. Add a row to the flavour table for another one",
        )
    if low := _low(gpus, flavour):
        raise PipelineError(
            low, PROGRAM, f"Install driver {flavour.driver} or newer {GET_DRIVER}; or name the flavour with {VARIABLE}"
        )
    capability = gpus[0].compute_capability
    reason = f"built for {flavour.compute_capability}" + (
        "" if flavour.compute_capability == capability else f", whose code {capability} runs too"
    )
    return Choice(flavour, f"{gpus[0]}: {reason}")


def _named(gpus: Sequence[Gpu], flavours: Sequence[Flavour], named: str) -> Choice:
    found = [flavour for flavour in flavours if flavour.name == named]
    if not found:
        raise PipelineError(f"there is no flavour {named!r}", VARIABLE, f"There are: {_listed(flavours)}")
    (flavour, *_) = found
    warnings = []
    if gpus and flavour.compute_capability:
        if not any(fitting(gpu.compute_capability, [flavour]) for gpu in gpus):
            warnings.append(
                f"{flavour.package_name} is built for compute capability {flavour.compute_capability}, and this host"
                f" has {', '.join(dict.fromkeys(map(str, gpus)))}: the server will find no code for its GPU"
            )
        if low := _low(gpus, flavour):
            warnings.append(f"{low}: the server will not start")
    return Choice(flavour, f"{VARIABLE} names it", tuple(warnings))


def _low(gpus: Sequence[Gpu], flavour: Flavour) -> str:
    """The fault of a driver that is too old, or "". One driver runs all GPUs of a host."""
    driver = gpus[0].driver
    if int(driver.split(".")[0]) >= flavour.driver:
        return ""
    cuda = f" (CUDA {flavour.cuda})" if flavour.cuda else ""
    return f"this host's NVIDIA driver is {driver}, and {flavour.package_name} needs {flavour.driver} or newer{cuda}"


def _listed(flavours: Iterable[Flavour]) -> str:
    return ", ".join(f"{f.name} ({f.compute_capability or 'no GPU'}: {f.summary})" for f in flavours)


# ---------------------------------------------------------------- the edge


def find_gpus(program: str = PROGRAM, devices: Path = Path("/sys/bus/pci/devices")) -> tuple[Gpu, ...]:
    """The GPUs of this host; PipelineError distinguishes a host without GPU from one without a working driver."""
    try:
        return parse(run([program, *QUERY], timeout=TIMEOUT).stdout)
    except ProgramMissing as error:
        if on_bus(devices):
            raise PipelineError(
                f"this host has an NVIDIA GPU, but no {program}", str(devices), f"Install the driver {GET_DRIVER}"
            ) from error
        raise PipelineError(
            f"this host has neither an NVIDIA GPU nor {program}",
            str(devices),
            f"Remove it from the group gpu_hosts; or name the flavour with {VARIABLE} (cpu needs no GPU)",
        ) from error
    except CommandFailed as error:
        output = " ".join((error.stdout or error.stderr).split())
        raise PipelineError(
            f"{program} finds no working GPU: {output or f'status {error.status}'}",
            error.where,
            f"Check that the driver is loaded (lsmod | grep nvidia); if it is too old, get a newer one {GET_DRIVER}",
        ) from error


def on_bus(devices: Path) -> bool:
    """Whether a display controller (class 03) of NVIDIA (vendor 10de) is on the PCI bus."""

    def attribute(device: Path, name: str) -> str:
        try:
            return (device / name).read_text().strip()
        except OSError:
            return ""

    found = devices.iterdir() if devices.is_dir() else iter(())
    return any(attribute(d, "vendor") == "0x10de" and attribute(d, "class").startswith("0x03") for d in found)
