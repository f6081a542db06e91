"""Which flavour a host's GPU takes.

Rules:

1. nvidia-smi is asked, which comes with the driver: name, compute capability and driver of each GPU.
2. The flavour of a GPU is the one that was built for its compute capability. Where the table has none, it is the
   nearest lower one of the same major number, as long as that is below 9: what was compiled for 8.6 runs on 8.9 too
   (CUDA's programming guide, binary compatibility). From 9.0 on upstream builds for one capability alone (the "a" in
   sm_120a). Nothing is ever left to the driver's translation of PTX to another generation: only part of the
   binary has PTX, and it was never tried.
3. All GPUs of a host have to take the same flavour; otherwise the operator chooses, and says which of the GPUs an
   instance may use (CUDA_VISIBLE_DEVICES).
4. A driver below the flavour's floor is refused: the server would end with UNSUPPORTED_PTX_VERSION.
5. What the operator named is taken. What speaks against it is told, and does not stop anything: the host may be an
   image whose GPU comes later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PipelineError
from ..base.records import Flavour, Record
from ..base.run import CommandFailed, ProgramMissing, run

PROGRAM = "nvidia-smi"
QUERY = ("--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader")
VARIABLE = "mistralrs_flavour"
TIMEOUT = 60
"""Seconds. Without nvidia-persistenced the driver starts each GPU for the answer, which takes a second or two."""

GET_DRIVER = (
    "from NVIDIA's CUDA repository for Fedora, or from wherever this host's driver came, and start the host anew"
)


@dataclass(frozen=True)
class Gpu(Record):
    """One line of nvidia-smi's answer: "NVIDIA GeForce RTX 4090", "8.9", "580.65.06"."""

    name: str
    compute_capability: str
    driver: str

    def __str__(self) -> str:
        return f"{self.name} ({self.compute_capability})"


@dataclass(frozen=True)
class Choice:
    """The flavour to install, why, and what speaks against it."""

    flavour: Flavour
    reason: str
    warnings: tuple[str, ...] = ()


# ---------------------------------------------------------------- decisions


def parse(answer: str) -> tuple[Gpu, ...]:
    """The GPUs in what nvidia-smi printed; PipelineError where that is not the table that was asked for."""
    gpus = []
    for line in filter(str.strip, answer.splitlines()):
        fields = [field.strip() for field in line.rsplit(",", 2)]
        if len(fields) != 3 or _number(fields[1]) is None or not fields[2][:1].isdigit():
            raise PipelineError(
                f"nvidia-smi answered {line.strip()!r}, which tells no compute capability and driver",
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
            "nvidia-smi names no GPU", PROGRAM, f"Look for it with lspci; or name the flavour with {VARIABLE}"
        )
    taken = {gpu: fitting(gpu, flavours) for gpu in gpus}
    chosen = set(taken.values())
    if len(chosen) > 1:
        listed = "; ".join(f"{gpu} takes {f.package_name if f else 'none'}" for gpu, f in taken.items())
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
            f"There are: {_listed(flavours)}. Another one is a row of the table of flavours",
        )
    if low := _low(gpus, flavour):
        raise PipelineError(
            low, PROGRAM, f"Get driver {flavour.driver} or newer {GET_DRIVER}; or name the flavour with {VARIABLE}"
        )
    capability = gpus[0].compute_capability
    reason = f"built for {flavour.compute_capability}" + (
        "" if flavour.compute_capability == capability else f", which {capability} runs too"
    )
    return Choice(flavour, f"{gpus[0]}: {reason}")


def fitting(gpu: Gpu, flavours: Iterable[Flavour]) -> Flavour | None:
    """The flavour whose code this GPU runs; see rule 2."""
    capability = _number(gpu.compute_capability)
    found = None
    for flavour in flavours:
        own = _number(flavour.compute_capability)
        if capability is None or own is None:
            continue
        if own == capability:
            return flavour
        compatible = own[0] == capability[0] < 9 and own < capability
        if compatible and (found is None or own > (_number(found.compute_capability) or own)):
            found = flavour
    return found


def _named(gpus: Sequence[Gpu], flavours: Sequence[Flavour], named: str) -> Choice:
    found = [flavour for flavour in flavours if flavour.name == named]
    if not found:
        raise PipelineError(f"there is no flavour {named!r}", VARIABLE, f"There are: {_listed(flavours)}")
    (flavour, *_) = found
    warnings = []
    if gpus and flavour.compute_capability:
        if not any(fitting(gpu, [flavour]) for gpu in gpus):
            warnings.append(
                f"{flavour.package_name} is built for compute capability {flavour.compute_capability}, and this host"
                f" has {', '.join(dict.fromkeys(map(str, gpus)))}: it will find no code for its GPU"
            )
        if low := _low(gpus, flavour):
            warnings.append(f"{low}: it will not start below")
    return Choice(flavour, f"{VARIABLE} names it", tuple(warnings))


def _low(gpus: Sequence[Gpu], flavour: Flavour) -> str:
    """What is wrong with the driver; one driver runs all GPUs."""
    driver = gpus[0].driver
    if int(driver.split(".")[0]) >= flavour.driver:
        return ""
    cuda = f" (CUDA {flavour.cuda})" if flavour.cuda else ""
    return f"this host's NVIDIA driver is {driver}, and {flavour.package_name} needs {flavour.driver} or newer{cuda}"


def _listed(flavours: Iterable[Flavour]) -> str:
    return ", ".join(f"{f.name} ({f.compute_capability or 'no GPU'}: {f.summary})" for f in flavours)


def _number(capability: str) -> tuple[int, int] | None:
    major, dot, minor = capability.partition(".")
    return (int(major), int(minor)) if dot and major.isdecimal() and minor.isdecimal() else None


# ---------------------------------------------------------------- the edge


def look(program: str = PROGRAM, devices: Path = Path("/sys/bus/pci/devices")) -> tuple[Gpu, ...]:
    """The GPUs of this host; PipelineError tells a host without one from one without a driver that works."""
    try:
        return parse(run([program, *QUERY], timeout=TIMEOUT).stdout)
    except ProgramMissing as error:
        if on_bus(devices):
            raise PipelineError(
                f"this host has an NVIDIA GPU, and no {program}", str(devices), f"Install the driver {GET_DRIVER}"
            ) from error
        raise PipelineError(
            f"this host has no NVIDIA GPU, and no {program}",
            str(devices),
            f"Take it out of the group gpu_hosts; or name the flavour with {VARIABLE} (cpu needs no GPU)",
        ) from error
    except CommandFailed as error:
        said = " ".join((error.stdout or error.stderr).split())
        raise PipelineError(
            f"{program} finds no GPU that works: {said or f'status {error.status}'}",
            error.where,
            f"Is the driver loaded (lsmod | grep nvidia)? If it is too old to be asked, get a newer one {GET_DRIVER}",
        ) from error


def on_bus(devices: Path) -> bool:
    """Whether a display controller (class 03) of NVIDIA (vendor 10de) is on the PCI bus."""

    def said(device: Path, name: str) -> str:
        try:
            return (device / name).read_text().strip()
        except OSError:
            return ""

    found = devices.iterdir() if devices.is_dir() else iter(())
    return any(said(d, "vendor") == "0x10de" and said(d, "class").startswith("0x03") for d in found)
