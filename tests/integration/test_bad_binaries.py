"""Audit of binaries from the real gcc, each with one fault of a build."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from hashlib import sha256

import pytest
from pipeline.base.findings import Finding
from pipeline.base.records import Artifact, Flavour, Source, sha256_file
from pipeline.package.audit import audit

COMMIT = "9e92262aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
SOURCE = Source("https://example.org/mistral.rs.git", "v0.9.2", "tag", COMMIT, 1_750_000_000, "0.9.2", "0.9.2")
CPU = Flavour("cpu", "any x86-64")
HARDENED = ("-fPIE", "-pie", "-Wl,-z,relro,-z,now")
PROGRAM = """\
#include <stdio.h>
#include <string.h>
__attribute__((noinline)) double sum(double *a, int n) {
    double s = 0;
    for (int i = 0; i < n; i++) a[i] = i * n;
    for (int i = 0; i < n; i++) s += a[i] * a[i] + 1;
    return s;
}
int main(int count, char **word) {
    double a[64];
    if (!strcmp(word[1], "doctor"))
        printf("{\\"system\\": {\\"build\\": {\\"cuda\\": false, \\"git_revision\\": \\"%s\\"}}}\\n", REVISION);
    else if (!strcmp(word[1], "--version"))
        puts("mistralrs 0.9.2");
    else
        printf("%s %f\\n", word[1], sum(a, 64));
    return !strcmp(word[1], "from-config");
}
"""
# Jumps to memory by an absolute address: the loader would have to write into the code.
TEXT_RELOCATION = """\
void hop(void);
__asm__(".globl hop\\nhop: movabs $main, %rax\\n ret\\n .section .note.GNU-stack,\\"\\",@progbits\\n .text\\n");
"""
# Memory both writable and executable.
BOTH = """\
__asm__(".section .both,\\"awx\\",@progbits\\n .byte 1\\n .section .note.GNU-stack,\\"\\",@progbits\\n .text\\n");
"""


@pytest.fixture
def make(tmp_path):
    """Compiles the program with arguments for gcc; returns its artifact, as a build makes it."""

    def compiled(*words: str, source: str = PROGRAM, revision: str = COMMIT, name: str = "one") -> Artifact:
        folder = tmp_path / "builder/artifacts/cpu" / name
        folder.mkdir(parents=True)
        (folder / "main.c").write_text(source)
        define = f'-DREVISION="{revision}"'
        argv = ["gcc", "-O3", define, *HARDENED, *words, "-o", folder / "mistralrs", folder / "main.c"]
        subprocess.run(argv, check=True, capture_output=True)
        path = folder / "mistralrs"
        artifact = Artifact(
            source=SOURCE, flavour=CPU, inputs=sha256(name.encode()).hexdigest(), folder=str(folder),
            binary="mistralrs",
            crate_version="0.9.2", sha256=sha256_file(path), size=path.stat().st_size, rustc="1.95.0", cuda="",
            rustflags="-C target-cpu=x86-64", locked=True, seconds=1.0, compiled=1, fresh=0, log="",
        )  # fmt: skip
        artifact.write(folder / "manifest.json")
        return artifact

    return compiled


def wrong(artifact: Artifact) -> dict[str, str]:
    return {finding.check: finding.found for finding in audit(artifact).findings if not finding.fits}


def finding(artifact: Artifact, check: str) -> Finding:
    return next(finding for finding in audit(artifact).findings if finding.check == check)


def test_a_good_binary_passes_and_reports_its_commit(make):
    artifact = make()
    assert wrong(artifact) == {}
    assert finding(artifact, "commit").found == COMMIT
    assert audit(artifact).summary.startswith("mistralrs 0.9.2, no GPU code, 0.0 MB")


@pytest.mark.parametrize(
    ("words", "check", "found"),
    [
        (("-fno-pie", "-no-pie"), "hardening", "no PIE"),
        (("-Wl,-z,execstack",), "hardening", "executable stack"),
        (("-Wl,-z,norelro",), "hardening", "no RELRO"),
        (("-Wl,-z,lazy",), "hardening", "lazy binding (partial RELRO)"),
        (("-Wl,-rpath,/opt/cuda/lib64",), "RPATH", "/opt/cuda/lib64"),
        (("-Wl,-rpath,$ORIGIN/../lib,--disable-new-dtags",), "RPATH", "$ORIGIN/../lib"),
        (("-Wl,-z,x86-64-v4",), "ELF note of the ISA", "x86-64, x86-64-v4"),
        (("-Wl,--no-as-needed", "-lrt", "-lcrypt"), "needed libraries", "libcrypt.so.1"),
    ],
)
def test_each_fault_of_linking_fails(make, words, check, found):
    assert wrong(make(*words))[check] == found


@pytest.mark.parametrize(
    ("words", "source", "found"),
    [(("-Wl,-z,notext",), TEXT_RELOCATION, "TEXTREL"), ((), BOTH, "segment both writable and executable")],
)
def test_writable_code_fails(make, words, source, found):
    assert wrong(make(*words, source=PROGRAM + source)) == {"hardening": found}


def test_without_a_library_the_program_does_not_start_and_the_reason_is_shown(make, tmp_path):
    (tmp_path / "empty.c").write_text("int nothing(void) { return 0; }\n")
    library = tmp_path / "libcuda.so.1"
    shared = ["gcc", "-shared", "-Wl,-soname,libcuda.so.1", "-o", library, tmp_path / "empty.c"]
    subprocess.run(shared, check=True)
    artifact = make("-Wl,--no-as-needed", str(library))
    assert "libcuda.so.1: cannot open shared object" in wrong(artifact)["version"]
    started = audit(artifact, library_path=[str(tmp_path)])
    assert {f.check for f in started.findings if not f.fits} == {"needed libraries"}


def test_a_binary_of_another_commit_fails(make):
    assert wrong(make(revision="d" * 40)) == {"commit": "d" * 40}


@pytest.mark.parametrize(
    ("words", "level", "found"),
    [
        (("-march=x86-64-v3",), "x86-64", "--help ends with an illegal instruction"),
        (("-march=x86-64-v3",), "x86-64-v2", "--help ends with an illegal instruction"),
        (("-march=x86-64-v3",), "x86-64-v3", "starts on it"),
        ((), "x86-64", "starts on it"),
    ],
)
def test_instructions_beyond_the_baseline_end_the_program_there(make, words, level, found):
    """The run with a configuration ends with an error that the program reports itself, which is no fault."""
    if not shutil.which("qemu-x86_64"):
        pytest.skip("qemu-user is not installed")
    artifact = dataclasses.replace(make(*words), rustflags=f"-C target-cpu={level}")
    assert finding(artifact, "baseline CPU").found == found


def test_a_build_script_that_printed_a_native_cpu_is_named(make, tmp_path):
    for name, text in (("onig_sys-1", "-O3 -march=native x.c"), ("ring-2", "native=/x -march=x86-64")):
        (tmp_path / "builder/target/release/build" / name).mkdir(parents=True)
        (tmp_path / "builder/target/release/build" / name / "output").write_text(f"cargo:rerun\nrunning: cc {text}\n")
    assert wrong(make()) == {"C compilers' flags": "onig_sys-1"}


def test_the_size_is_compared_with_the_last_build_of_the_same_features(make):
    first = make(name="first")
    assert finding(first, "size").needed == "any: the first build of this flavour"
    blown = make(source=PROGRAM + "char ballast[100000] = {1};\n", name="second")
    assert finding(blown, "size").warning
    assert finding(blown, "size").needed == "within 25% of 0.0 MB (0.9.2)"
    with_features = dataclasses.replace(blown, flavour=dataclasses.replace(CPU, features=("mkl",)))
    assert not finding(with_features, "size").warning


def test_a_path_of_the_builder_in_the_binary_is_a_warning(make, tmp_path):
    leak = f'const char *from = "{tmp_path}/builder/target/out";\n'
    artifact = make(source=PROGRAM.replace("int main", leak + "int main"))
    assert finding(artifact, "builder's paths").warning
    assert finding(artifact, "builder's paths").found == "1 in the binary"


def test_the_module_fails_with_every_finding_and_warns_of_the_rest(make, run_module):
    artifact = make("-Wl,-z,execstack", "-Wl,-rpath,/opt")
    result = run_module("binary_audit", {"artifact": artifact.to_dict(), "trust": "release"})
    assert result["failed"]
    assert "RPATH: found /opt, needed none." in result["msg"]
    assert "hardening: found executable stack, needed PIE, full RELRO, NX." in result["msg"]
    assert "Nothing was packaged or published" in result["msg"]
    make(source=PROGRAM + "char ballast[100000] = {1};\n", name="before")
    good = make(name="good")
    passed = run_module("binary_audit", {"artifact": good.to_dict(), "trust": "release"})
    assert not passed["changed"]
    assert passed["step"]["result"].startswith("mistralrs 0.9.2")
    assert any(row["warning"] for row in passed["findings"] if row["check"] == "size")
