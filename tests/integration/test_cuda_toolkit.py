"""A CUDA toolkit from wheels is pinned, complete or absent, and installed once.

The real pip installs small wheels in the shape of NVIDIA's, without a registry; the real gcc links the stub. One test
installs NVIDIA's own wheels and compiles for each flavour.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pipeline.base.errors import PipelineError
from pipeline.toolchain.cuda import Toolkit, Wheels, provide

ROOT = Path(__file__).parents[2]
CUDA_H = """
#define cuMemAlloc cuMemAlloc_v2
CUresult CUDAAPI cuInit(unsigned int Flags);
CUresult CUDAAPI cuMemAlloc(CUdeviceptr *dptr, size_t bytesize);
"""


def nvcc(version: str) -> str:
    release = version.rpartition(".")[0]
    return f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{version}'\n"


def make_wheel(folder: Path, name: str, files: dict[str, str]) -> str:
    """Create a wheel; returns its line of a pins file."""
    info = f"{name}-13.0.dist-info"
    members = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 13.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    members[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in (*members, f"{info}/RECORD"))
    path = folder / f"{name}-13.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            entry = zipfile.ZipInfo(member)
            entry.external_attr = (0o100755 if "/bin/" in member else 0o100644) << 16
            archive.writestr(entry, text)
    return f"{name.replace('_', '-')}==13.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Returns a function that publishes wheels of a toolkit to pip and returns their pins."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for name in ("CUDA_PATH", "CUDA_HOME", "CUDA_ROOT"):
        monkeypatch.delenv(name, raising=False)

    def publish(version: str = "13.0.88") -> str:
        compiler = {"nvidia/cu13/bin/nvcc": nvcc(version), "nvidia/cu13/include/cuda.h": CUDA_H}
        library = {"nvidia/cu13/lib/libcudart.so.13": "", "nvidia/cudnn/lib/libcudnn.so.9": ""}
        return make_wheel(wheels, "nvidia_test_nvcc", compiler) + make_wheel(wheels, "nvidia_test_cudart", library)

    return publish


@pytest.fixture
def wheels(pin: Callable[..., str], tmp_path: Path) -> Wheels:
    return Wheels("13.0", tmp_path / "builder", pin(), sys.executable)


def everything(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_wheels_become_one_tree_that_programs_link_against(wheels: Wheels, tmp_path: Path) -> None:
    toolkit, changed = provide(wheels, "wheels")
    folder = tmp_path / "builder/toolchain/cuda-13.0"
    assert changed
    assert (toolkit.folder, toolkit.compiler, toolkit.source) == (str(folder), "13.0.88", "wheels")
    assert toolkit.library_path == (str(folder / "lib"), str(folder / "lib/stubs"))
    assert (folder / "lib/libcudart.so").readlink() == Path("libcudart.so.13")
    assert (folder / "lib64/libcudnn.so").resolve() == folder / "lib/libcudnn.so.9"
    assert sorted(path.name for path in folder.parent.iterdir()) == [".lock", "cuda-13.0"]

    program = tmp_path / "program.c"
    program.write_text("int cuInit(unsigned); int cuMemAlloc_v2(void); int main() { return cuInit(0); }")
    subprocess.run(["gcc", program, "-o", tmp_path / "program", f"-L{folder}/lib/stubs", "-lcuda"], check=True)
    linked = subprocess.run(["readelf", "-d", tmp_path / "program"], check=True, capture_output=True, text=True)
    assert "[libcuda.so.1]" in linked.stdout
    started = subprocess.run([tmp_path / "program"], check=False, env={"LD_LIBRARY_PATH": str(folder / "lib/stubs")})
    assert started.returncode == 34, "CUDA_ERROR_STUB_LIBRARY"


def test_nothing_runs_while_the_pins_are_the_same(
    wheels: Wheels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, _ = provide(wheels, "wheels")
    before = everything(tmp_path / "builder")
    monkeypatch.setenv("PATH", "/nonexistent")
    again, changed = provide(dataclasses.replace(wheels, python="/nonexistent"), "auto")
    assert (again, changed) == (first, False)
    assert everything(tmp_path / "builder") == before


def test_other_pins_replace_the_toolkit(wheels: Wheels, pin: Callable[..., str]) -> None:
    provide(wheels, "wheels")
    wheels = dataclasses.replace(wheels, pins=pin("13.0.99"))
    assert provide(wheels, "wheels", check=True)[1], "check mode reports the change"
    toolkit, changed = provide(wheels, "wheels")
    assert (toolkit.compiler, changed) == ("13.0.99", True)
    assert [path.name for path in Path(toolkit.folder).parent.iterdir() if path.is_dir()] == ["cuda-13.0"]


def test_an_interrupted_installation_is_replaced(wheels: Wheels, tmp_path: Path) -> None:
    toolchain = tmp_path / "builder/toolchain"
    for leftover in (".cuda-13.0.partial/wheels", ".cuda-13.0.previous/bin", "cuda-13.0/bin"):
        (toolchain / leftover).mkdir(parents=True)
    assert provide(wheels, "wheels")[1]
    assert sorted(path.name for path in toolchain.iterdir()) == [".lock", "cuda-13.0"]


def test_check_mode_installs_nothing(wheels: Wheels, tmp_path: Path) -> None:
    toolkit, changed = provide(wheels, "wheels", check=True)
    assert changed
    assert toolkit.folder == str(tmp_path / "builder/toolchain/cuda-13.0")
    assert not (tmp_path / "builder").exists()


def test_the_systems_toolkit_must_be_of_exactly_the_release(
    wheels: Wheels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    system = tmp_path / "system"
    (system / "bin").mkdir(parents=True)
    (system / "lib64").mkdir()
    (system / "bin/nvcc").write_text(nvcc("13.0.48"))
    (system / "bin/nvcc").chmod(0o755)
    monkeypatch.setenv("CUDA_PATH", str(system))
    assert provide(wheels, "auto") == (
        Toolkit("13.0", "13.0.48", str(system), f"{system}/bin/nvcc", "system", (f"{system}/lib64",)),
        False,
    )
    (system / "bin/nvcc").write_text(nvcc("12.9.86"))
    assert provide(wheels, "auto")[0].source == "wheels"
    with pytest.raises(PipelineError, match=r"the system has no CUDA 13.0 .*Install cuda-toolkit-13-0"):
        provide(wheels, "system")


def refused(wheels: Wheels, message: str) -> None:
    """Assert that the installation fails with the message and leaves an existing toolkit untouched."""
    before = everything(wheels.folder) if wheels.folder.exists() else None
    with pytest.raises(PipelineError, match=message):
        provide(wheels, "wheels")
    assert (everything(wheels.folder) if wheels.folder.exists() else None) == before
    leftovers = [path.name for path in wheels.folder.parent.glob(".cuda*")]
    assert leftovers == []


def test_a_wheel_with_other_bytes_is_refused(wheels: Wheels, pin: Callable[..., str]) -> None:
    provide(wheels, "wheels")
    pins = pin("13.0.99")
    pin("13.0.66")  # the same name and version, other bytes
    refused(dataclasses.replace(wheels, pins=pins), "does not match its pinned SHA-256; nothing was installed")


def test_an_unavailable_wheel_is_refused(wheels: Wheels) -> None:
    gone = dataclasses.replace(wheels, pins=f"nvidia-test-gone==13.0 --hash=sha256:{'0' * 64}\n")
    refused(gone, r"a pinned wheel is not available: .*nvidia-test-gone.*registry in pip's own configuration")


def test_an_nvcc_of_another_release_is_refused(wheels: Wheels, pin: Callable[..., str]) -> None:
    provide(wheels, "wheels")
    refused(dataclasses.replace(wheels, pins=pin("13.2.86")), "the pins for CUDA 13.0 contain nvcc 13.2.86")


def test_a_python_without_pip_is_refused(wheels: Wheels, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    refused(
        dataclasses.replace(wheels, python=str(tmp_path / "bare/bin/python")),
        "this Python has no pip .*python3-pip",
    )


def test_a_builder_without_gcc_is_refused(wheels: Wheels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    refused(wheels, "gcc is not installed")


def test_a_full_disk_is_refused(wheels: Wheels) -> None:
    refused(dataclasses.replace(wheels, space=1 << 60), r"CUDA 13.0 needs \d+ MB and \d+ MB are free")


def test_a_release_without_pins_is_refused(wheels: Wheels) -> None:
    refused(dataclasses.replace(wheels, pins=""), r"there are no pins for CUDA 13.0 \(roles/.*make lock")


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., tuple[dict[str, Any], str]]:
    """Returns a function that runs the role on this machine and returns its result and Ansible's output."""

    def run_role(*words: str, **variables: str) -> tuple[dict[str, Any], str]:
        playbook, left = tmp_path / "play.yml", tmp_path / "provided.json"
        keep = "cuda_toolkits['13.0'] | combine({'step': __cuda_toolkit_provided.step}) | to_json"
        playbook.write_text(
            "- hosts: localhost\n  gather_facts: false\n  roles: [cuda_toolkit]\n  post_tasks:\n"
            f"    - ansible.builtin.copy: {{dest: {left}, mode: '0600', content: \"{{{{ {keep} }}}}\"}}\n"
        )
        ansible = Path(sys.executable).with_name("ansible-playbook")
        inventory = ("--inventory", "localhost,", "--connection", "local")
        done = subprocess.run(
            [ansible, playbook, *inventory, "-e", json.dumps(variables), *words],
            cwd=ROOT,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            },
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(left.read_text()), done.stdout

    return run_role


@pytest.mark.skipif(shutil.which("gcc") is None, reason="nvcc needs gcc")
def test_the_role_provides_a_toolkit_that_compiles_for_each_flavour(
    play: Callable[..., tuple[dict[str, Any], str]], tmp_path: Path
) -> None:
    # The local builder's root: tests and `make release` share one download.
    root = str(ROOT / ".local/builder")
    play(cuda_toolkit_root=root, cuda_toolkit_source="wheels")
    again, printed = play("--diff", cuda_toolkit_root=root, cuda_toolkit_source="wheels")
    assert "changed=0" in printed
    step = again.pop("step")
    toolkit = Toolkit.from_dict(again)
    assert step == {
        "name": "toolchain",
        "flavour": "",
        "result": f"CUDA {toolkit.compiler} from wheels",
        "where": toolkit.folder,
    }

    program = tmp_path / "program.cu"
    program.write_text(
        "#include <cuda.h>\n"
        "__global__ void root(float *x) { *x = rsqrtf(*x); }\n"
        "int main() { root<<<1, 1>>>(nullptr); return cuInit(0); }\n"
    )
    for arch in ("sm_86", "sm_89", "sm_120a"):
        binary = tmp_path / arch
        subprocess.run([toolkit.nvcc, f"-arch={arch}", "-o", binary, program, "-lcuda"], check=True)
        listed = subprocess.run(
            [f"{toolkit.folder}/bin/cuobjdump", "--list-elf", binary],
            check=True,
            capture_output=True,
            text=True,
        )
        assert f".{arch}.cubin" in listed.stdout
        started = subprocess.run([binary], check=False, env={"LD_LIBRARY_PATH": ":".join(toolkit.library_path)})
        assert started.returncode == 34, "the stub's error"


def test_a_toolkit_of_nvidias_packages_is_found_and_patched_once(
    pin: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Wheels("13.0", tmp_path / "builder", "", sys.executable)
    planned, would = provide(wanted, "dnf", check=True)
    assert (planned.source, planned.folder, would) == ("dnf", "/usr/local/cuda-13.0", True)
    with pytest.raises(PipelineError, match="the system has no CUDA 13.0"):
        provide(wanted, "dnf")

    folder = tmp_path / "cuda"
    header = folder / "targets/include/crt/math_functions.h"
    header.parent.mkdir(parents=True)
    (folder / "include").symlink_to("targets/include")
    header.write_text("double rsqrt(double x);\n")
    (folder / "bin").mkdir()
    (folder / "bin/nvcc").write_text(nvcc("13.0.88"))
    (folder / "bin/nvcc").chmod(0o755)
    monkeypatch.setenv("CUDA_PATH", str(folder))
    assert provide(wanted, "dnf", check=True)[1]
    assert "noexcept" not in header.read_text(), "check mode only reports it"
    toolkit, changed = provide(wanted, "dnf")
    assert (toolkit.source, toolkit.compiler, changed) == ("dnf", "13.0.88", True)
    assert header.read_text() == "double rsqrt(double x) noexcept(true);\n"
    assert provide(wanted, "dnf") == (toolkit, False)
