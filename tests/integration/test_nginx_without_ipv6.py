"""The repo host's nginx on a machine that was booted without IPv6: real nginx, to which the kernel refuses AF_INET6."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import lookup_loader
from ansible.template import Templar, trust_as_template
from pipeline.base import seccomp
from support import PROJECT
from support.cloudflare_site import authority, certificate

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nginx"), reason="no root, or no nginx")

# As in Fedora's package: a server of its own, and the folder of other sites.
MAIN = """\
error_log {folder}/error.log;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    include {folder}/conf.d/*.conf;
    server {{
        listen       80;
        listen       [::]:80;
        server_name  _;
    }}
}}
"""
# A kernel that was booted with ipv6.disable=1 answers EAFNOSUPPORT to each socket of AF_INET6; so does the filter. The
# network namespace has free ports 80 and 443.
NGINX = """\
#!{python}
import os, sys
sys.path.insert(0, {project!r})
from pipeline.base import seccomp
if {refuse}:
    seccomp._FAMILIES = (1, 2, 16)
    seccomp.load(seccomp.sockets())
os.execvp("unshare", ["unshare", "--net", {nginx!r}, "-c", "{folder}/nginx.conf", *sys.argv[1:]])
"""


@pytest.fixture
def host(tmp_path: Path) -> Path:
    if seccomp.sockets() is None:
        pytest.skip("the filter is for x86_64")
    authority(tmp_path)
    certificate(tmp_path, "rpm.lair.test")
    for name in ("bin", "conf.d"):
        (tmp_path / name).mkdir()
    (tmp_path / "nginx.conf").write_text(MAIN.format(folder=tmp_path))
    return tmp_path


def kernel(host: Path, *, ipv6: bool) -> None:
    program = host / "bin/nginx"
    nginx = shutil.which("nginx") or ""
    program.write_text(
        NGINX.format(
            python=sys.executable, project=str(PROJECT / "module_utils"), folder=host, refuse=not ipv6, nginx=nginx
        )
    )
    program.chmod(0o755)


def variables(host: Path, *, ipv6: bool) -> dict[str, object]:
    """The role's inputs, and its constants with paths of this test."""
    return {
        "rpm_site_name": "rpm.lair.test",
        "rpm_site_root": str(host / "srv"),
        "rpm_site_certificate": str(host / "rpm.lair.test.pem"),
        "rpm_site_certificate_key": str(host / "rpm.lair.test.key"),
        "__rpm_site_conf": str(host / "conf.d/mistralrs-rpm.conf"),
        "__rpm_site_main_conf": str(host / "nginx.conf"),
        "__rpm_site_log": str(host / "access.log"),
        "__rpm_site_error_log": str(host / "site.log"),
        "__rpm_site_http2_on": False,
        "__rpm_site_other_default": [],
        "__rpm_site_installed": {"changed": False},
        "__rpm_site_inet6": {"stat": {"exists": ipv6}},
    }


def configure(host: Path) -> str:
    """Run the role's tasks that configure nginx, which end with its check; their output."""
    tasks = [
        {"ansible.builtin.include_role": {"name": "rpm_site", "tasks_from": "configure"}},
        # No handler runs on a failed host: it would start this machine's own nginx.
        {"ansible.builtin.fail": {"msg": "configured"}},
    ]
    play = [{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]
    (host / "play.json").write_text(json.dumps(play))
    (host / "vars.json").write_text(json.dumps(variables(host, ipv6=False)))
    (host / "ansible.cfg").touch()
    ansible = str(Path(sys.executable).with_name("ansible-playbook"))
    words = ["-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"]
    done = subprocess.run(
        [ansible, *words, "-e", f"@{host}/vars.json", "play.json"],
        cwd=host,
        env={
            **os.environ,
            "PATH": f"{host}/bin:{os.environ['PATH']}",
            "ANSIBLE_CONFIG": str(host / "ansible.cfg"),
            "ANSIBLE_ROLES_PATH": str(PROJECT / "roles"),
            "ANSIBLE_LOOKUP_PLUGINS": str(PROJECT / "plugins/lookup"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def listens(host: Path) -> set[str]:
    """The addresses of the site and of nginx.conf."""
    text = "".join((host / name).read_text() for name in ("nginx.conf", "conf.d/mistralrs-rpm.conf"))
    return set(re.findall(r"^ *listen +(\S+?:?\d+)\b", text, re.MULTILINE))


def test_without_ipv6_the_site_and_nginx_conf_listen_on_ipv4(host: Path) -> None:
    kernel(host, ipv6=False)
    output = configure(host)
    assert "Check nginx's whole configuration" in output
    assert "nginx rejects its configuration" not in output, output
    assert "configured" in output.partition("Check nginx's whole configuration")[2], output
    assert "RUNNING HANDLER" not in output, output
    assert listens(host) == {"80", "443"}
    assert "# no IPv6: listen       [::]:80;" in (host / "nginx.conf").read_text()
    assert nginx(host).returncode == 0


def test_with_ipv6_the_site_listens_on_both(host: Path) -> None:
    lookup_loader.add_directory(str(PROJECT / "plugins/lookup"))
    role = PROJECT / "roles/rpm_site"
    known = {**yaml.safe_load((role / "defaults/main.yml").read_text()), **variables(host, ipv6=True)}
    text = (role / "templates/nginx.conf.j2").read_text()
    (host / "conf.d/mistralrs-rpm.conf").write_text(
        str(Templar(DataLoader(), variables=known).template(trust_as_template(text)))
    )
    assert listens(host) == {"80", "443", "[::]:80", "[::]:443"}
    kernel(host, ipv6=True)
    assert nginx(host).returncode == 0
    # nginx refuses the whole configuration for one address that the kernel does not have.
    kernel(host, ipv6=False)
    assert "socket() [::]:80 failed (97: Address family not supported by protocol)" in nginx(host).stderr


def nginx(host: Path) -> subprocess.CompletedProcess[str]:
    """Check the whole configuration."""
    return subprocess.run([host / "bin/nginx", "-t", "-q"], capture_output=True, text=True, check=False)
