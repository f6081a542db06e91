"""A builder compiles as its account: for a GPU with the real nvcc, with the pinned Rust, from the cache."""

import json

import pytest

testinfra_hosts = ["ansible://builders"]

ROOT = "/var/lib/mistralrs-rpm"
USER = "mistralrs-build"
KERNEL = "__global__ void add(float *a, const float *b) { a[threadIdx.x] += rsqrt(b[threadIdx.x]); }"


def as_builder(host, script: str) -> str:
    """The output of a script that the build account runs in a new folder."""
    done = host.run("sudo -H -u %s sh -ec %s", USER, f'cd "$(mktemp -d)"\n{script}')
    assert done.rc == 0, done.stdout + done.stderr
    return done.stdout


def test_nobody_can_log_in_to_the_account_and_it_owns_its_toolchain(host):
    account = host.user(USER)
    assert account.shell == "/usr/sbin/nologin"
    assert account.password.startswith("!")
    assert host.file(ROOT).user == USER
    assert host.check_output("find %s/toolchain %s/cache ! -user %s", ROOT, ROOT, USER) == ""
    assert not [name for name in host.file(f"{ROOT}/toolchain").listdir() if "partial" in name]


@pytest.mark.parametrize(("cuda", "architecture"), [("13.0", "sm_86"), ("13.0", "sm_89"), ("13.2", "sm_120")])
def test_each_flavours_nvcc_compiles_a_kernel_for_its_gpu(host, cuda, architecture):
    toolkit = f"{ROOT}/toolchain/cuda-{cuda}"
    compiled = f"printf '%s\\n' '{KERNEL}' >kernel.cu; {toolkit}/bin/nvcc -arch={architecture} -c kernel.cu -o kernel.o"
    listed = as_builder(host, f"{compiled}; {toolkit}/bin/cuobjdump --list-elf kernel.o")
    assert f"{architecture}.cubin" in listed


def test_rust_is_the_pinned_release(host):
    (rust,) = [name for name in host.file(f"{ROOT}/toolchain").listdir() if name.startswith("rust-")]
    assert f"release: {rust.removeprefix('rust-')}" in as_builder(host, f"{ROOT}/toolchain/{rust}/bin/rustc -vV")


CRATE = r"""
export PATH=$(echo {root}/toolchain/rust-*/bin):$PATH RUSTC_WRAPPER=$(echo {root}/toolchain/sccache-*/bin/sccache)
export CARGO_INCREMENTAL=0 SCCACHE_SERVER_UDS=$PWD/socket
export $(grep -v '^#' {root}/cache/sccache.env) SCCACHE_DIR=$PWD/kept
cargo new --quiet --vcs none --lib twice
cd twice
printf 'pub fn twice(of: u32) -> u32 {{ of * 2 }}\n' >src/lib.rs
printf 'fn main() {{ println!("{{}}", twice::twice(21)); }}\n' >src/main.rs
cargo build --quiet --offline --release
rm -r target
cargo build --quiet --offline --release
./target/release/twice >&2
$RUSTC_WRAPPER --show-stats --stats-format json
$RUSTC_WRAPPER --stop-server >/dev/null
"""


def test_a_second_compile_is_a_cache_hit(host):
    stats = json.loads(as_builder(host, CRATE.format(root=ROOT)))["stats"]
    assert stats["cache_misses"]["counts"] == {"Rust": 1}
    assert stats["cache_hits"]["counts"] == {"Rust": 1}


def test_only_the_builder_reads_the_caches_settings(host):
    settings = host.file(f"{ROOT}/cache/sccache.env")
    assert (settings.user, settings.mode) == (USER, 0o600)
    assert f"SCCACHE_DIR={ROOT}/cache/sccache" in settings.content_string
