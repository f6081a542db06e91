"""A failed build names its first real error, the crate, and the remedy for a known cause."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline.build.failures import CAUSES, SHOWN, WIDTH, CompileFailed, Failure, explain, first_error

FOLDER = Path(__file__).parents[1] / "fixtures" / "failures"
MEMORY = "a compiler got no memory: too many run at once"
BY = "was ended by signal"
OOM = f"{BY} 9 (SIGKILL): the kernel killed a process for lack of memory"
# By log: the crate, the cause, a part of the remedy, a line that is shown.
EXPECTED = {
    "build-script-panic": ("mistralrs-quant 0.9.2", "its build script failed", "run again", "CUDA_COMPUTE_CAP"),
    "c-compiler-missing": ("openssl-sys 0.9.1", "g++-missing is missing", "Install it", "failed to find tool"),
    "c-error": ("openssl-sys 0.9.1", "its build script failed", "run again", "  a.c:1:8: error: expected declaration"),
    "cmake-missing": ("onig_sys 69.9.1", "cmake is missing", "Install it", "is `cmake` not installed?"),
    "crate-403": ("serde 1.0.219", "the registry or mirror refused", "credentials", "got 403"),
    "crate-checksum": ("serde 1.0.219", "other bytes than Cargo.lock names", "before you trust", "verify the checksum"),
    "cuda-too-new": ("mistralrs-quant 0.8.0", "not support CUDA 13.3", "upstream_cuda", "Unsupported cuda toolkit"),
    "cutlass-unresolved": ("candle-flash-attn 0.9.2", "the name git.example.org", "git_mirrors", "git clone failed"),
    "disk-full": ("mistralrs-core 0.9.2", "the disk is full", "Free space", "rustc-LLVM ERROR: IO failure"),
    "disk-full-link": ("mistralrs-cli 0.9.2", "most often the disk is full", "Free space", "signal 7 [Bus error]"),
    "disk-full-rmeta": ("mistralrs-core 0.9.2", "the disk is full", "build_free_gib", "os error 28"),
    "feature-missing": ("", "a feature that cfg-if lacks", "Report it upstream", "with feature `nix`"),
    "gcc-too-new": ("mistralrs-quant 0.9.2", "gcc 15 at most", "gcc is 15 or older", "unsupported GNU version!"),
    "git-missing": ("candle-core", "a git dependency cannot be fetched", "git_mirrors", "file:///srv/none/candle.git"),
    "git-unresolved": ("candle-core", "the name git.example.org cannot", "proxy", "candle.git?rev=35d7ae7"),
    "glibc-too-new": ("mistralrs-quant 0.9.2", "declare rsqrt differently", "cuda_source", "exception specification"),
    "header-missing": ("mistralrs-quant 0.9.2", "cuda_fp99.h is missing", "cuda_toolkit_components", "No such file"),
    "killed-cc1plus": ("mistralrs-quant 0.9.2", f"cc1plus {OOM}", "low_memory=true", "terminated program cc1plus"),
    "killed-cicc": ("mistralrs-quant 0.9.2", f"cicc {OOM}", "low_memory=true", "cicc terminated (signal: 9)"),
    "killed-cicc-verbose": ("mistralrs-quant 0.9.2", f"a program {OOM}", "low_memory=true", "  Killed"),
    "killed-rustc": ("mistralrs-core 0.9.2", f"rustc {OOM}", "low_memory=true", "(signal: 9, SIGKILL: kill)"),
    "killed-rustc-cached": ("mistralrs-core 0.9.2", f"a program {OOM}", "low_memory=true", "killed by signal 9"),
    "libclang-missing": ("aws-lc-sys 0.37.0", "libclang is missing", "libclang-dev", "Unable to find libclang"),
    "library-missing": ("mistralrs-cli 0.9.2", "finds no libnccl", "cuda_toolkit_components=full", "-lnccl"),
    "library-missing-bfd": ("mistralrs-cli 0.9.2", "finds no libnccl", "cuda_toolkit_components=full", "-lnccl"),
    "lock-damaged": ("", "cannot read Cargo.lock", "Report it upstream", "key with no value, expected `=`"),
    "lock-newer": ("", "needs a newer Rust", "raise rust_version", "lock file version `9` was found"),
    "lock-stale": ("", "Cargo.lock does not fit", "Report it upstream", "--locked was passed"),
    "memory-rustc": ("mistralrs-core 0.9.2", MEMORY, "low_memory=true", "memory allocation of 2359312 bytes failed"),
    "nvcc-architecture": ("mistralrs-quant 0.9.2", "does not support compute_30", "compute_capability", "nvcc fatal"),
    "nvcc-error": ("mistralrs-quant 0.9.2", "nvcc rejects a source", "cuda", 'identifier "missing_function"'),
    "nvcc-error-verbose": ("mistralrs-quant 0.9.2", "nvcc rejects a source", "cuda", 'identifier "missing_function"'),
    "nvcc-missing": ("mistralrs-quant 0.9.2", "nvcc does not run", "make doctor", "cannot run `/srv/none/nvcc`"),
    "offline": ("", "the compile has no network", "cargo/registry", "no matching package named `cudaforge`"),
    "other-architecture": ("mistralrs-cli 0.9.2", "another compiler or for another", "Delete target/", "(f.o)"),
    "registry-401": ("serde", "the registry or mirror refused", "credentials", "require a credential-provider"),
    "registry-403": ("serde", "the registry or mirror refused", "credentials", "got 403"),
    "registry-503": ("serde", "cannot be reached", "cargo_registry_mirror", "got 503"),
    "registry-certificate": ("serde", "certificate of the registry", "SSL_CERT_FILE", "self-signed certificate"),
    "registry-slow": ("serde", "answers too slowly", "cargo_registry_mirror", "Timeout was reached"),
    "registry-unresolved": ("serde", "the name crates.example.org cannot", "proxy", "Could not resolve host"),
    "rustc-error": ("mistralrs-core 0.9.2", "rustc rejects the code", "another version", "expected `u32`, found"),
    "rustc-too-old": ("mistralrs-cli 0.9.2", "needs Rust 1.99", "rust_version", "requires rustc 1.99"),
    "rustc-too-old-for-a-dependency": ("candle-core 0.10.2", "needs Rust 1.99", "rust_version", "requires rustc 1.99"),
    "symbol-missing": ("mistralrs-cli 0.9.2", "finds no ncclCommInitRank", "Delete target/", "undefined symbol"),
}  # fmt: skip


def log_of(name: str) -> list[str]:
    return (FOLDER / f"{name}.txt").read_text().splitlines()


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.txt")))
def test_a_real_failure_has_crate_cause_and_remedy(name: str) -> None:
    crate, cause, remedy, line = EXPECTED[name]
    failure = explain(log_of(name), killed=1)
    assert failure.crate == crate
    assert cause in failure.cause
    assert remedy in failure.remedy
    assert line in "\n".join(failure.lines)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_shown_lines_are_short_and_without_noise(name: str) -> None:
    lines = explain(log_of(name)).lines
    assert len(lines) <= SHOWN
    assert all(len(line) <= WIDTH + 3 for line in lines)
    noise = ("#$ ", "cargo:", "CMAKE_", "RUST_BACKTRACE", '= note:  "cc"', "Caused by:", "stack backtrace", "<unknown>")
    assert not [line for line in lines for word in noise if word in line]


# Output that is hard to reproduce here, as reported publicly.
@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("nvcc error   : 'cicc' died due to signal 9 (Kill signal)", "cicc was ended by signal 9"),
        ("nvcc error   : 'cudafe++' died due to signal 9 (Kill signal)", "cudafe++ was ended by signal 9"),
        ('/usr/include/bits/mathcalls.h(206): error: exception specification is incompatible with that of "rsqrtf"',
         "declare rsqrtf differently"),
        ("collect2: fatal error: ld terminated with signal 9 [Killed]", "ld was ended by signal 9"),
        ("      Command 'perl' not found. Is perl installed?", "perl is missing"),
        ("error: linker `cc` not found", "cc is missing"),
        ("error[E0514]: found crate `serde` compiled by an incompatible version of rustc", "directory has stale"),
        ("error[E0658]: use of unstable library feature `stdarch`", "needs a newer Rust"),
        ("  process didn't exit successfully: `build-script-build` (signal: 4, SIGILL: illegal instruction)",
         "compiled for another CPU"),
        ("error: the compiler unexpectedly panicked. this is a bug.", "the compiler itself crashed"),
        ("  cannot run `/srv/nvcc`: Exec format error (os error 8)", "for another processor"),
    ],
)  # fmt: skip
def test_publicly_reported_failures(line: str, cause: str) -> None:
    script = ["error: failed to run custom build command for `a v1.0.0`"]
    assert cause in explain([*([] if line.startswith("error") else script), line]).cause


def test_an_error_of_nvcc_is_no_killed_process():
    """The compile cache calls nvcc's exit status 2 a signal; repeating that would mislead the operator."""
    assert "sccache: Compiler killed by signal 2" in "\n".join(log_of("nvcc-error"))
    failure = explain(log_of("nvcc-error"))
    assert "signal" not in "\n".join(failure.lines)
    assert "memory" not in failure.cause


def test_the_first_error_counts():
    log = [*log_of("rustc-error"), *log_of("killed-cicc"), *log_of("disk-full")]
    assert explain(log).cause == "rustc rejects the code"
    assert explain(log).lines[-1].endswith("  expected `u32` because of return type")
    assert explain([*log_of("disk-full"), *log]).cause == "the disk is full"


def test_the_source_line_is_shown_with_the_error():
    shown = explain(log_of("nvcc-error")).lines
    at = next(i for i, line in enumerate(shown) if "missing_function" in line)
    assert shown[at + 1].lstrip().startswith("__attribute__((global)) void k")
    assert shown[at + 2].strip() == "^"


def test_a_long_line_keeps_its_end_with_the_exit_status():
    line = next(line for line in explain(log_of("killed-rustc")).lines if "rustc" in line and " … " in line)
    assert line.endswith("(signal: 9, SIGKILL: kill)")


def test_an_unknown_error_has_the_general_remedy():
    failure = explain(["   Compiling a v1.0.0", "error: something new went wrong", "  in a new way"])
    assert failure == Failure(
        "", ("error: something new went wrong", "  in a new way"), "the build failed",
        "See the whole log. After a fix, run again: compiled units are kept",
    )  # fmt: skip


def test_without_an_error_line_the_end_of_the_output_is_shown():
    assert first_error(["a", "b", "", "c"]) == ["a", "b", "c"]
    assert explain([str(number) for number in range(100)]).lines[-1] == "99"
    assert explain([]) == Failure("", (), "the build failed", explain(["x"]).remedy)


def test_every_cause_has_a_log_or_a_report():
    """A row without a test may be wrong."""
    met = {explain(log_of(name)).cause for name in EXPECTED}
    untested = [row.cause for row in CAUSES if "{" not in row.cause and row.cause not in met]
    assert untested == [
        "a program is for another processor",
        "a program was compiled for another CPU than the builder's",
        "the compiler itself crashed",
    ], "these are in test_publicly_reported_failures and test_host_limits"


def test_faults_of_the_sources_are_marked():
    theirs = {name for name in EXPECTED if explain(log_of(name)).upstreams}
    assert theirs == {
        "feature-missing", "lock-damaged", "lock-stale", "nvcc-error", "nvcc-error-verbose", "rustc-error",
    }  # fmt: skip
    result = CompileFailed(explain(log_of("rustc-error")), "/l").failure()
    assert result["upstreams"] is True
    assert result["msg"].startswith("the build failed: mistralrs-core")


SCRIPT = "error: failed to run custom build command for `mistralrs-quant v0.9.2 (/srv/builder/src/mistralrs-quant)`"
RUSTC = "error: could not compile `serde` (lib)"


# By line of a log: the program, the signal, what it means.
SIGNALLED = [
    ("  process didn't exit successfully: `/t/build/x-1/build-script-build` (signal: 9, SIGKILL: kill)",
     "the build script was ended by signal 9 (SIGKILL), and the kernel saw no lack of memory"),
    ("  process didn't exit successfully: `/t/build/x-1/build-script-build` (signal: 11, SIGSEGV: invalid memory)",
     "the build script was ended by signal 11 (SIGSEGV): it crashed"),
    ("  process didn't exit successfully: `/opt/bin/sccache /opt/bin/rustc --crate-name x` (signal: 11, SIGSEGV)",
     "rustc was ended by signal 11 (SIGSEGV): the compiler itself crashed"),
    ("nvcc error   : 'cicc' died due to signal 11 (Invalid memory reference)",
     "cicc was ended by signal 11 (SIGSEGV): the compiler itself crashed"),
    ("  process didn't exit successfully: `cargo` (signal: 9)", f"cargo {BY} 9 (SIGKILL), and the kernel saw"),
    ("  cicc terminated (signal: 25)", f"cicc {BY} 25 (SIGXFSZ): a file exceeds the largest size"),
    ("  collect2: fatal error: ld terminated with signal 7 [Bus error]", f"ld {BY} 7 (SIGBUS): it lost the"),
    ("error: linking with `cc` failed: signal: 13 (SIGPIPE)", f"cc {BY} 13 (SIGPIPE): the program that read"),
    ("  gcc: internal compiler error: Killed signal terminated program cc1plus", f"cc1plus {BY} 9 (SIGKILL),"),
    ("  subprocess.CalledProcessError: Command '['cmake', '.']' died with <Signals.SIGXCPU: 24>.",
     "was ended by signal 24 (SIGXCPU): it used all processor time"),
    ("  ./build.sh: line 3: 12345 Segmentation fault      (core dumped) ./gen", "signal 11 (SIGSEGV): it crashed"),
    ("  make[1]: *** [Makefile:7: gen.o] Killed", "a program was ended by signal 9 (SIGKILL), and"),
    ("  make: *** [Makefile:7: gen.o] Error 137", "a program was ended by signal 9 (SIGKILL), and the kernel saw no"),
    ("  ExitStatus(unix_wait_status(9)), exit status: 139", "a program was ended by signal 11 (SIGSEGV): it crashed"),
    ("  sh returned exit code: 159", "signal 31 (SIGSYS): a filter forbids a system call"),
    ("  Terminated", "a program was ended by signal 15 (SIGTERM)"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "cause"), SIGNALLED)
def test_a_signal_is_named_and_memory_only_on_evidence(line: str, cause: str) -> None:
    script = [] if line.startswith("error") else [SCRIPT]
    failure = explain([*script, line], killed=0)
    assert cause in failure.cause
    assert failure.remedy
    assert not failure.upstreams
    assert "low_memory" not in failure.remedy
    assert line.strip()[:80] in "\n".join(failure.lines)
    if "signal 9" in cause:
        assert failure.remedy.startswith("Somebody or something else ended it")
        known = explain([*script, line], killed=2)
        assert "the kernel killed 2 processes for lack of memory" in known.cause
        assert "low_memory=true" in known.remedy
        unknown = explain([*script, line], killed=None)
        assert "the kernel does not say why" in unknown.cause
        assert "dmesg may name it" in unknown.remedy


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("  write error: No space left on device", "the disk is full"),
        ("  fatal error: error writing to /tmp/x.s: no space left on device", "the disk is full"),
        ('  Os { code: 28, kind: StorageFull, message: "x" }', "the disk is full"),
        ("  ENOSPC: cannot write", "the disk is full"),
        ("  cannot write x.o: Disk quota exceeded (os error 122)", "the disk is full"),
        ("  as: x.o: File too large", "a file exceeds the largest size"),
        ("  failed to write: File too large (os error 27)", "a file exceeds the largest size"),
        ("  cc1plus: out of memory allocating 65536 bytes", MEMORY),
        ("  terminate called after throwing an instance of 'std::bad_alloc'", MEMORY),
        ("  virtual memory exhausted: Cannot allocate memory", MEMORY),
    ],
)
def test_a_program_that_names_what_it_lacks_is_believed(line: str, cause: str) -> None:
    # The signal that follows is only the consequence.
    end = "  process didn't exit successfully: `/x/build-script-build` (signal: 6, SIGABRT: process abort signal)"
    assert cause in explain([SCRIPT, line, end], killed=0).cause


@pytest.mark.parametrize(
    "line",
    [
        "  process didn't exit successfully: `/x/build-script-build` (exit status: 101)",
        "  expected 137 arguments, found Error 1377",
        "  note: Killed threads are counted",
        "  exit status: 128",
    ],
)
def test_an_exit_status_is_no_signal(line: str) -> None:
    assert explain([SCRIPT, line], killed=1).cause == "its build script failed"


# A nightly warm-up succeeds if upstream is at fault: none of these may count as that.
@pytest.mark.parametrize(
    "log",
    [
        [],
        ["   Compiling a v1.0.0"],
        ["error: something new went wrong"],
        ["error: failed to write `/srv/builder/target/x.d`", "Caused by:", "  Input/output error (os error 5)"],
        ["error: failed to open: /srv/builder/target/release/.cargo-lock", "  Permission denied (os error 13)"],
        ["error: couldn't create a temp dir: Too many open files (os error 24) at path \"/srv/builder/target/rmeta\""],
        ["error: linking with `cc` failed: exit status: 1",
         "  = note: collect2: fatal error: ld terminated with signal 9 [Killed]"],
        ["error: linking with `cc` failed: exit status: 1", "  = note: mold: fatal: something"],
        [SCRIPT, "  thread 'main' panicked at build.rs:4:53:", '  Os { code: 24, kind: Uncategorized, message: "x" }'],
        [SCRIPT, "  kernels/a.cu(1): catastrophic error: could not open the temporary file"],
        [SCRIPT, "  /usr/include/bits/mathcalls.h(79): error: linkage specification is incompatible",
         '  kernels/a.cu(3): error: identifier "x" is undefined'],
        [SCRIPT, '  /opt/cuda-13.0/include/crt/math_functions.h(9): error: identifier "__x" is undefined'],
        [SCRIPT, '  kernels/a.cu(3): error: identifier "x" is undefined', "  nvcc: Input/output error"],
        ["error[E0463]: can't find crate for `serde`", " --> src/lib.rs:1:5", RUSTC],
        ["error[E0786]: found invalid metadata files for crate `serde`", " --> src/lib.rs:1:5", RUSTC],
        ["error: extern location for serde does not exist: /srv/builder/target/libserde.rmeta", " --> src/lib.rs:1:5"],
        ["error: couldn't read `src/a.txt`: Permission denied (os error 13)", " --> src/lib.rs:1:5", RUSTC],
        ["error: /srv/builder/target/libserde_derive.so: cannot open shared object file: Too many open files",
         " --> src/lib.rs:1:5"],
    ],
)  # fmt: skip
def test_possible_faults_of_the_builder_are_not_marked(log: list[str]) -> None:
    assert not explain(log).upstreams


def test_an_error_of_rustc_without_a_number_is_marked():
    shown = ["error: this file contains an unclosed delimiter", " --> mistralrs-core/src/limits.rs:1:17", "  |", RUSTC]
    assert (explain(shown).upstreams, explain(shown).cause) == (True, "rustc rejects the code")


def test_the_message_names_crate_cause_lines_log_and_remedy():
    text = str(CompileFailed(explain(log_of("library-missing")), "/srv/builder/log/ada-0.9.2-20261121T104833Z.log"))
    assert text.startswith("the build failed: mistralrs-cli 0.9.2: the linker finds no libnccl\n    error: linking")
    assert "ada-0.9.2-20261121T104833Z.log" in text
    assert text.endswith("any other is in a -devel package")
