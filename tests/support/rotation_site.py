"""An operator with a signer, a repo host and a web server: what rotate_key.yml and release.yml do, step by step.

The steps are the modules' own logic; the .repo files are the role's own template. The publisher agent trusts a copy
of the keys, as on another host.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jinja2
import yaml
from pipeline.base.records import Package
from pipeline.channel.agent_client import Publisher
from pipeline.channel.engine import Engine, Signer
from pipeline.channel.reader import Channel
from pipeline.channel.release_package import KEY_FILE, Order, Plan, Row, provide
from pipeline.hosts.loopback_site import Site
from pipeline.sign import keyring
from pipeline.sign.keyring import Recipe, Rotation
from pipeline.sign.rpm_signature import sign_package

from . import PROJECT
from .ports import free_port
from .signer_site import AGENT, make_package

CHANNELS = {
    "stable": {"path": "fedora/43/x86_64", "repo": "mistralrs.repo"},
    "unstable": {"path": "fedora/43/x86_64/unstable", "repo": "mistralrs-unstable.repo", "metadata_expire": "1h"},
}
RELEASE = "mistralrs-release.rpm"


def site_repo_file(channel: str, url: str) -> str:
    """The .repo file of the site, by the role's template."""
    role = PROJECT / "roles/rpm_site"
    template = jinja2.Environment(  # noqa: S701  no HTML
        keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    template.filters["splitext"] = lambda name: name.rpartition(".")[::2]
    template.filters["first"] = lambda parts: parts[0]
    return template.from_string((role / "templates/mistralrs.repo.j2").read_text()).render(
        item={"key": channel, "value": CHANNELS[channel]},
        rpm_site_url=url,
        **yaml.safe_load((role / "vars/main.yml").read_text()),
    )


@dataclass(frozen=True)
class Operator:
    """All of it below ``folder``; clients reach ``web``."""

    folder: Path
    web: Site

    @classmethod
    def make(cls, folder: Path) -> Operator:
        """With a key, and nothing published."""
        operator = cls(folder, Site(folder / "srv", free_port(), folder / "nginx"))
        operator.web.root.mkdir(parents=True)
        config = {
            "root": str(operator.web.root),
            "base_url": operator.web.url,
            "key": str(folder / "trusted.asc"),
            "channels": {name: {"path": row["path"]} for name, row in CHANNELS.items()},
        }
        (folder / "publisher.json").write_text(json.dumps(config))
        keyring.ensure(operator.home, operator.public, name="Test", email="test@localhost", algorithm="ed25519")
        operator.trust()
        for name, row in CHANNELS.items():
            (operator.web.root / row["repo"]).write_text(site_repo_file(name, operator.web.url))
        return operator

    @property
    def home(self) -> Path:
        return self.folder / "gnupg"

    @property
    def public(self) -> Path:
        return self.folder / "public.asc"

    @property
    def signer(self) -> Signer:
        return Signer(self.home, None, self.public)

    def channel(self, name: str = "stable") -> Channel:
        return Channel(str(self.web.root / CHANNELS[name]["path"]), self.public)

    def engine(self, name: str = "stable") -> Engine:
        agent = Publisher([*AGENT, "--config", str(self.folder / "publisher.json"), "--rsh"], "local")
        return Engine(name, self.channel(name), agent, self.signer, self.folder / "signer")

    def signs(self) -> keyring.SigningKey:
        """The key that signs now."""
        with keyring.opened(self.home) as gpg:
            return gpg.signing_key()

    def names(self, channel: str = "stable") -> list[str]:
        return [package.filename for package in self.channel(channel).read().packages]

    # The playbooks' steps.

    def trust(self) -> None:
        """tasks/trusted_keys.yml: the keys on the site and in the agent."""
        shutil.copy(self.public, self.web.root / KEY_FILE)
        shutil.copy(self.public, self.folder / "trusted.asc")

    def sign(self, package: Package) -> Package:
        return sign_package(
            package, self.folder / "signer", home=self.home, passphrase_file=None, trusted_keys=self.public
        ).package

    def publish(self, version: str, channel: str = "stable", flavour: str = "ada") -> Package:
        """A package of this version: built, signed, published."""
        package = self.sign(make_package(self.folder / "unsigned" / version, version, flavour=flavour, text=version))
        self.engine(channel).add([package], reason=version)
        return package

    def order(self, without: str = "", url: str = "", rows: Iterable[Row] = ()) -> Order:
        return Order(
            rows=tuple(rows) or tuple(Row.of(name, row) for name, row in CHANNELS.items()),
            location=str(self.web.root),
            url=url or self.web.url,
            fedora="43",
            home=self.home,
            trusted_keys=self.public,
            root=self.folder / "signer",
            spec_folder=PROJECT / "rpm",
            without=without,
        )

    def publish_release(self, without: str = "") -> Plan:
        """tasks/release_package.yml."""
        plan = provide(self.order(without))
        package = self.sign(plan.package) if plan.built else plan.package
        for name in plan.lacking:
            self.engine(name).add([package], reason="release")
        for name, names in plan.older.items() if without else ():
            self.engine(name).remove(list(names), reason="retired", yank=True)
        shutil.copy(package.path, self.web.root / RELEASE)
        return plan

    def introduce(self) -> Rotation:
        """rotate_key.yml up to the point where the next key is known everywhere."""
        recipe = Recipe("Test", "test@localhost", self.folder / "primary", "ed25519")
        begun = keyring.introduce(self.home, self.public, recipe=recipe)
        self.trust()
        self.publish_release()
        return begun

    def schedule(self, days: int = 30) -> Rotation:
        """The last step of rotate_key.yml."""
        return keyring.schedule(self.home, overlap_days=days)

    def switch(self) -> str:
        """The overlap is over: the day that use-from.json says has come. The certificate that signs now."""
        file = self.home / keyring.USE_FROM
        times = json.loads(file.read_text())
        assert all(times.values()), "the rotation was not scheduled"
        file.write_text(json.dumps(dict.fromkeys(times, int(time.time()))))
        return self.signs().fingerprint

    def retire(self, fingerprint: str) -> None:
        """rotate_key.yml -e signing_retire=."""
        self.publish_release(fingerprint)
        keyring.retire(self.home, self.public, fingerprint)
        self.trust()
