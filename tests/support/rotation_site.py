"""An operator with a signer, a repo host and a web server, and the steps of rotate_key.yml and release.yml.

The steps call the logic of the modules. The agent trusts a copy of the keys, as on a separate host.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.records import Package
from pipeline.channel.agent_client import AgentClient
from pipeline.channel.engine import Engine
from pipeline.channel.reader import Repository
from pipeline.channel.release_package import Decision, Request, provide
from pipeline.channel.repo_file import ChannelRow
from pipeline.hosts.loopback_site import Site
from pipeline.sign import rotation
from pipeline.sign.keyring import USE_FROM, SigningKey, opened
from pipeline.sign.rotation import Recipe, Rotation
from pipeline.sign.rpm_signature import sign_package
from pipeline.sign.signer import Signer
from pipeline.sign.trust import KEYS_NAME

from . import PROJECT
from .flavours import FLAVOURS
from .ports import free_port
from .signer_site import AGENT, make_package

CHANNELS = {
    "stable": {"path": "fedora/43/x86_64", "repo": "mistralrs.repo"},
    "unstable": {"path": "fedora/43/x86_64/unstable", "repo": "mistralrs-unstable.repo", "metadata_expire": "1h"},
}
RELEASE = "mistralrs-release.rpm"


def site_repo_file(channel: str, url: str) -> str:
    """The .repo file of the site, as the role rpm_site writes it."""
    return ChannelRow.of(channel, CHANNELS[channel]).repo_file(url, enabled=True)


@dataclass(frozen=True)
class Operator:
    """An operator's hosts below ``folder``; clients reach ``web``."""

    folder: Path
    web: Site

    @classmethod
    def make(cls, folder: Path, port: int = 0) -> Operator:
        """An operator with a key and empty repositories; with the port of another, a site at the same address."""
        operator = cls(folder, Site(folder / "srv", port or free_port(), folder / "nginx"))
        operator.web.root.mkdir(parents=True)
        config = {
            "root": str(operator.web.root),
            "base_url": operator.web.url,
            "key": str(folder / "trusted.asc"),
            "channels": {name: {"path": row["path"]} for name, row in CHANNELS.items()},
        }
        (folder / "publisher.json").write_text(json.dumps(config))
        rotation.ensure(operator.signer, operator.recipe)
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
        return Signer(self.folder / "signer", self.home, None, self.public)

    @property
    def recipe(self) -> Recipe:
        return Recipe("Test", "test@localhost", self.folder / "primary", "ed25519")

    def channel(self, name: str = "stable") -> Repository:
        return Repository(str(self.web.root / CHANNELS[name]["path"]), self.public)

    def engine(self, name: str = "stable") -> Engine:
        agent = AgentClient([*AGENT, "--config", str(self.folder / "publisher.json"), "--rsh"], "local")
        return Engine(name, self.channel(name), agent, self.signer)

    def signs(self) -> SigningKey:
        """The key that signs now."""
        with opened(self.home) as keyring:
            return keyring.signing_key()

    def names(self, channel: str = "stable") -> list[str]:
        """The packages of a channel's head, without the package mistralrs, which travels with mistralrs-release."""
        return [name for name in self.every_name(channel) if not name.startswith("mistralrs-4")]

    def every_name(self, channel: str = "stable") -> list[str]:
        return [package.filename for package in self.channel(channel).read().packages]

    # The playbooks' steps.

    def trust(self) -> None:
        """tasks/trusted_keys.yml: copy the trusted keys to the site and the agent."""
        shutil.copy(self.public, self.web.root / KEYS_NAME)
        shutil.copy(self.public, self.folder / "trusted.asc")

    def sign(self, package: Package) -> Package:
        return sign_package(package, self.signer).package

    def publish(self, version: str, channel: str = "stable", flavour: str = "ada") -> Package:
        """Build, sign and publish a package of this version."""
        package = self.sign(make_package(self.folder / "unsigned" / version, version, flavour=flavour, text=version))
        self.engine(channel).publish([package], reason=version)
        return package

    def request(self, without: str = "", url: str = "", rows: Iterable[ChannelRow] = ()) -> Request:
        return Request(
            rows=tuple(rows) or tuple(ChannelRow.of(name, row) for name, row in CHANNELS.items()),
            location=str(self.web.root),
            url=url or self.web.url,
            fedora="43",
            signer=self.signer,
            spec_folder=PROJECT / "rpm",
            flavours=FLAVOURS,
            without=without,
        )

    def publish_release(self, without: str = "") -> Decision:
        """tasks/release_package.yml."""
        decision = provide(self.request(without))
        packages = [self.sign(package) if decision.built else package for package in decision.packages]
        for name in decision.lacking:
            self.engine(name).publish(packages, reason="release")
        for name, names in decision.older.items() if without else ():
            self.engine(name).remove(list(names), reason="retired", yank=True)
        shutil.copy(packages[0].path, self.web.root / RELEASE)
        return decision

    def introduce(self) -> Rotation:
        """rotate_key.yml up to the point where clients can fetch the next key."""
        begun = rotation.introduce(self.signer, self.recipe)
        self.trust()
        self.publish_release()
        return begun

    def schedule(self, days: int = 30) -> Rotation:
        """The last step of rotate_key.yml."""
        return rotation.schedule(self.signer, overlap_days=days)

    def switch(self) -> str:
        """End the overlap: set the times in use-from.json to now. Returns the signing certificate's fingerprint."""
        file = self.home / USE_FROM
        times = json.loads(file.read_text())
        assert all(times.values()), "the rotation was not scheduled"
        file.write_text(json.dumps(dict.fromkeys(times, int(time.time()))))
        return self.signs().fingerprint

    def retire(self, fingerprint: str) -> None:
        """rotate_key.yml -e signing_retire=."""
        self.publish_release(fingerprint)
        rotation.retire(self.signer, fingerprint)
        self.trust()
