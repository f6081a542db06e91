"""A caller whose configuration and variables change all that a program lets its caller change."""

from __future__ import annotations

import os
from pathlib import Path

_GITCONFIG = """\
[core]
	autocrlf = true
	hooksPath = {program_folder}
	fsmonitor = {program}
	attributesFile = {home}/attributes
	pager = {program}
	sshCommand = {program}
[init]
	templateDir = {home}/template
	defaultBranch = hostile
[url "file:///nonexistent/"]
	insteadOf = file:///
[filter "hostile"]
	clean = {program}
	smudge = {program}
	required = true
[protocol]
	allow = never
[fetch]
	prune = true
	fsckObjects = true
[transfer]
	bundleURI = true
[safe]
	bareRepository = explicit
[commit]
	gpgSign = true
[gc]
	recentObjectsHook = {program}
[http]
	proxy = http://127.0.0.1:9
"""
_MACROS = """\
%_gpg_digest_algo sha1
%_topdir /nonexistent
%_builddir /nonexistent
%_rpmdir /nonexistent
%dist .hostile
%packager hostile
%vendor hostile
%_binary_payload w0.gzdio
%_source_payload w0.gzdio
%__strip /bin/false
%_build_name_fmt hostile.rpm
"""
_FILES = {
    ".rpmmacros": _MACROS,
    ".config/rpm/macros": _MACROS,
    "rpm/rpmrc": "",
    ".gnupg/gpg.conf": "digest-algo SHA1\nno-such-option\n",
    ".gnupg/common.conf": "use-keyboxd\n",
    ".popt": "rsync alias -rt --delete --dry-run\nrpm alias -qp --version\n",
    ".curlrc": 'proxy = "http://127.0.0.1:9"\n',
    ".cargo/config.toml": '[profile.release]\nopt-level = 0\n[build]\nrustc = "/bin/false"\n',
    "attributes": "* text eol=crlf filter=hostile\n",
    "openssl.cnf": "hostile",
}
_HOOKS = ("post-checkout", "reference-transaction", "post-index-change", "pre-auto-gc", "proc-receive", "update")


def variables(folder: Path, *, home: bool = True) -> dict[str, str]:
    """Write the hostile files below ``folder``; returns the hostile variables, which without ``home`` lack HOME.

    A program that must not run leaves the file ``ran`` there.
    """
    program = folder / "programs/program"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\necho "$0 $*" >> {folder}/ran\nexit 1\n')
    program.chmod(0o755)
    for name in _HOOKS:
        (program.parent / name).symlink_to(program)
    account = folder / "home"
    gitconfig = _GITCONFIG.format(home=account, program=program, program_folder=program.parent)
    for name, text in {**_FILES, ".gitconfig": gitconfig, "template/hooks/x": ""}.items():
        (account / name).parent.mkdir(parents=True, exist_ok=True)
        (account / name).write_text(text)
    return {
        **({"HOME": str(account)} if home else {}),
        "LANGUAGE": "ru",
        "TZ": "Pacific/Kiritimati",
        "GNUPGHOME": str(account / ".gnupg"),
        "RPM_CONFIGDIR": str(account / "rpm"),
        "RPM_BUILD_ROOT": "/nonexistent",
        "SOURCE_DATE_EPOCH": "1",
        "RUSTFLAGS": "--hostile", "RUSTC": "/bin/false", "RUSTC_WRAPPER": "/bin/false", "RUSTUP_TOOLCHAIN": "hostile",
        "CARGO_HOME": str(account / ".cargo"), "CARGO_BUILD_RUSTFLAGS": "--hostile", "CARGO_INCREMENTAL": "1",
        "CARGO_PROFILE_RELEASE_OPT_LEVEL": "0", "CARGO_TARGET_DIR": "/nonexistent", "CARGO_BUILD_TARGET": "hostile",
        "CC": "/bin/false", "CFLAGS": "--hostile", "LDFLAGS": "--hostile", "NVCC_PREPEND_FLAGS": "--hostile",
        "SCCACHE_DIR": "/nonexistent", "SCCACHE_REDIS_ENDPOINT": "tcp://127.0.0.1:9",
        "TAR_OPTIONS": "--hostile", "GZIP": "--hostile", "XZ_DEFAULTS": "--hostile", "ZSTD_CLEVEL": "1",
        "RSYNC_RSH": str(program), "RSYNC_PROTECT_ARGS": "1", "RSYNC_PROXY": "127.0.0.1:9", "POPT_ALIAS": "1",
        "GREP_OPTIONS": "--hostile", "POSIXLY_CORRECT": "1", "CDPATH": "/", "BASH_ENV": str(program),
        "ENV": str(program), "PERL5OPT": "-Mhostile", "OPENSSL_CONF": str(account / "openssl.cnf"),
        "GIT_DIR": "/nonexistent", "GIT_WORK_TREE": "/nonexistent", "GIT_INDEX_FILE": "/nonexistent",
        "GIT_OBJECT_DIRECTORY": "/nonexistent", "GIT_EXEC_PATH": "/nonexistent", "GIT_SSH": str(program),
        "GIT_EXTERNAL_DIFF": str(program), "GIT_PAGER": str(program), "GIT_TEMPLATE_DIR": str(account / "template"),
        "GIT_CONFIG_PARAMETERS": "'core.hooksPath'='/nonexistent'", "GIT_ALLOW_PROTOCOL": "none",
        "GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "core.autocrlf", "GIT_CONFIG_VALUE_0": "true",
        "GIT_CONFIG_KEY_1": "url.file:///nonexistent/.insteadOf", "GIT_CONFIG_VALUE_1": "file:///",
    }  # fmt: skip


def reaching(home: Path) -> dict[str, str]:
    """Link into a hostile home what set-up legitimately reads of the real one, and name rustup's folder."""
    real = Path(os.environ.get("HOME", "/root"))
    for name in (".config/pip", ".pip", ".netrc"):
        if (real / name).exists():
            (home / name).symlink_to(real / name)
    rustup = os.environ.get("RUSTUP_HOME") or str(real / ".rustup")
    return {"RUSTUP_HOME": rustup} if Path(rustup).is_dir() else {}
