"""Resolve a local clone: one commit of it, or its uncommitted work, and a pack of the objects that a builder lacks.

Rules:

1. The developer's repository is never written: new objects go to a temporary git directory that has the developer's
   objects as alternates.
2. No program of the developer's configuration runs, no hook, filter or file monitor: the repository may be anybody's.
   Its rules for ignored files and for comparing files apply, and those of the developer's own configuration: the
   developer's git wrote those files. Submodules stay at the commits that the index names: git
   would enter them with their own configuration.
3. Uncommitted work becomes a commit on top of HEAD, one second later. Its names and dates are fixed: the same files
   give the same commit. A clean tree is HEAD itself.
4. The pack holds the commit and those of its files that no commit of the builder has; with uncommitted work also those
   of HEAD, so that the next pack is small. It has no history, so a shallow clone is enough.
5. A commit's version comes from upstream's releases, not from the clone's own tags.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PipelineError
from ..base.git import OFFLINE, account, default_excludes, git, has, parents_and_time, remote_refs
from ..base.records import Flavour, Source
from ..base.run import CommandFailed
from .git_folder import initialise
from .upstream import BRANCHES, from_mirror, refuse_account, versions_of

CHANNEL = "unstable"
"""The one channel for packages of commits."""

_PERSON = "Uncommitted work <uncommitted@localhost>"
_MADE = "made"
# A pack of another run stays for this many seconds.
_KEPT = 86400
# The settings that decide whether a file differs or is ignored; none of them names a program.
_HONOURED = ("core.fileMode", "core.autocrlf", "core.eol", "core.symlinks", "core.ignoreCase", "core.excludesFile")


@dataclass(frozen=True)
class DevRequest:
    """A development build: ``commit`` of upstream; or ``ref``, or the uncommitted work, of the clone ``source``.

    ``incremental`` is None where the developer did not choose.
    """

    source: str = ""
    ref: str = ""
    commit: str = ""
    uncommitted: bool = False
    publish: str = ""
    incremental: bool | None = None
    channel: str = CHANNEL

    @property
    def incrementally(self) -> bool:
        """Whether to compile incrementally. By default a package to publish is not, any other is."""
        return not self.publish if self.incremental is None else self.incremental

    def refuse(self) -> None:
        """PipelineError if the options contradict each other."""
        if self.publish not in ("", CHANNEL):
            raise _refused(
                f"a development build cannot be published to {self.publish}",
                f"Leave publish out, or set publish={CHANNEL}; release.yml publishes releases to {self.publish}",
            )
        if self.publish and self.incremental:
            raise _refused(
                "incremental was given with publish, but a package to publish is compiled as releases are",
                "Leave one of them out",
            )
        if self.channel != CHANNEL:
            raise _refused(
                f"channel={self.channel} was given, but a development build belongs to {CHANNEL}",
                f"Leave channel out; publish={CHANNEL} publishes",
            )
        if bool(self.source) == bool(self.commit):
            raise _refused(
                "both source and commit were given" if self.source else "neither source nor commit was given",
                "Set source= (SOURCE= with make) for a local clone, or commit= (COMMIT=) for a commit of upstream",
            )
        if self.commit and (self.ref or self.uncommitted):
            raise _refused(
                f"{'uncommitted' if self.uncommitted else 'ref'} was given with commit",
                "It belongs to source=: leave commit out, or leave it out",
            )


def _refused(what: str, remedy: str) -> PipelineError:
    return PipelineError(what, "playbooks/dev.yml", f"{remedy}. Nothing was built")


def one_flavour(flavours: Sequence[Flavour], name: str) -> Flavour:
    """The flavour of that name; "all" is refused too."""
    for flavour in flavours:
        if flavour.name == name:
            return flavour
    known = ", ".join(flavour.name for flavour in flavours)
    raise PipelineError(
        "a development build has one flavour" if name == "all" else f"there is no flavour {name}",
        "inventory/group_vars/all/flavours.yml",
        f"Set flavour= (FLAVOUR= with make) to one of: {known}",
    )


@dataclass(frozen=True)
class Clone:
    """A git repository of the developer. ``git_dir`` has HEAD and the index; all worktrees share ``common``."""

    path: Path
    git_dir: Path
    common: Path
    work_tree: Path | None

    @classmethod
    def at(cls, path: Path) -> Clone:
        """The repository of exactly this folder: a checkout, a worktree of one, or a bare repository."""
        folder = path.resolve()
        # A path below another checkout is not taken for that checkout.
        env = {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
        words = ["--absolute-git-dir", "--git-common-dir", "--is-inside-work-tree"]
        try:
            git_dir, common, inside = _rev_parse(folder, *words, env=env)
            work_tree = Path(_rev_parse(folder, "--show-toplevel", env=env)[0]) if inside == "true" else None
        except PipelineError as error:
            raise PipelineError(
                f"source is no readable git repository: {error.what}",
                where=str(folder),
                remedy="Name the top folder of a checkout, or a bare repository, on the machine that runs Ansible",
            ) from error
        return cls(folder, Path(git_dir), (folder / common).resolve(), work_tree)

    def commit(self, ref: str, objects: Path) -> str:
        """The commit of a ref; ``objects`` is a git directory that sees the clone's objects."""
        try:
            name = self._ask("rev-parse", "--verify", "--quiet", "--end-of-options", ref).split()[-1]
            commit = git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", repository=objects).strip()
        except (CommandFailed, IndexError) as error:
            refs = self._ask("for-each-ref", "--format=%(refname:short)").split()
            near = ", ".join(difflib.get_close_matches(ref, refs, cutoff=0.4))
            raise PipelineError(
                f"{ref} names no commit",
                where=str(self.path),
                remedy=f"The nearest are: {near}" if near else "Set ref= (REF= with make) to a branch, tag or id",
            ) from error
        # git takes the tag, with a warning (gitrevisions(7)).
        listed = self._ask("for-each-ref", "--format=%(refname) %(objectname)", f"refs/heads/{ref}").splitlines()
        branch = dict(line.split() for line in listed).get(f"refs/heads/{ref}", commit)
        if branch != commit:
            raise PipelineError(
                f"{ref} is a tag of commit {commit}, and a branch at {branch}",
                where=str(self.path),
                remedy=f"Set ref= (REF= with make) to refs/heads/{ref} or refs/tags/{ref}",
            )
        return commit

    def index(self) -> str:
        """Its entries as git lists them, "mode id stage<tab>path", each ended by NUL."""
        return self._ask("-c", "core.fsmonitor=false", "ls-files", "--sparse", "--stage", "-z")

    def settings(self) -> dict[str, str]:
        """The settings of the developer's and of its configuration that apply; its own win."""
        own = dict(account(f"^({'|'.join(map(re.escape, map(str.lower, _HONOURED)))})$"))
        values = {name: own[name.lower()] for name in _HONOURED if name.lower() in own}
        values.setdefault("core.excludesFile", str(default_excludes()))
        for name in _HONOURED:
            try:
                values[name] = git("config", "--file", self.common / "config", "--get", name).strip()
            except CommandFailed:
                continue
        return values

    def _ask(self, *words: str) -> str:
        return git(f"--git-dir={self.git_dir}", *words, env=OFFLINE)


def _rev_parse(folder: Path, *words: str, env: Mapping[str, str]) -> list[str]:
    # Another account may own the repository: this runs no program of its configuration.
    return git("-c", "safe.directory=*", "-C", folder, "rev-parse", *words, env={**env, **OFFLINE}).splitlines()


@dataclass(frozen=True)
class ResolvedClone:
    """The Source of a local clone, the ``pack`` for the builder if it needs one, and warnings for the operator."""

    source: Source
    pack: Path | None
    warnings: tuple[str, ...]


def from_caller(path: str, environ: Mapping[str, str]) -> str:
    """A path of the operator, who stands in the folder where make or ansible-playbook was started.

    Ansible itself would count from playbooks/. make names that folder, since its recipes run elsewhere with -C.
    """
    folder = environ.get("MISTRALRS_RPM_CALLER") or environ.get("PWD") or ""
    return os.path.normpath(Path(folder, path)) if path and Path(folder).is_absolute() else path


def resolve_local(request: DevRequest, url: str, mirror: Path, known: Iterable[str], packs: Path) -> ResolvedClone:
    """The commit of ``request.source``, and a pack in ``packs`` for a builder that has the commits ``known``.

    Costs one ``git ls-remote`` of upstream, for its releases. If upstream is unreachable, the known ones count.
    """
    refuse_account(url)
    clone = Clone.at(Path(request.source))
    with _scratch(clone.common / "objects", mirror / "objects") as scratch:
        head = clone.commit(request.ref or "HEAD", scratch)
        commit = _uncommitted(clone, head, scratch) if request.uncommitted else head
        warnings = _update(url, mirror)
        _, moment = parents_and_time(scratch, commit)
        try:
            # The mirror is a partial clone: there a missing commit would pass for one that was left out on purpose.
            git("rev-list", "--quiet", commit, repository=scratch)
            versions = versions_of(mirror, commit, str(clone.path), objects=scratch / "objects", dirty=commit != head)
        except CommandFailed as error:
            raise PipelineError(
                f"the history of commit {commit} ends before a release: {error.what}",
                where=str(clone.path),
                remedy="A shallow clone has to reach a commit of upstream: git fetch --unshallow there",
            ) from error
        address = url if has(mirror, commit) else clone.path.as_uri()
        source = Source(address, request.ref or "HEAD", "commit", commit, moment, *versions)
        pack = None if commit in known else packs / f"{commit}.pack"
        try:
            warnings += _beyond(commit, scratch)
            if pack:
                _pack(sorted({commit, head}.difference(known)), known, scratch, pack)
        except CommandFailed as error:
            raise PipelineError(
                f"the clone lacks files of commit {commit}: {error.what}",
                where=str(clone.path),
                remedy="It is a partial clone: check that commit out there once, which fetches them, then run again",
            ) from error
    return ResolvedClone(source, pack, tuple(warnings))


@contextmanager
def _scratch(*objects: Path) -> Iterator[Path]:
    """An empty git directory with other object folders as alternates; new objects go to its folder ``_MADE``."""
    with tempfile.TemporaryDirectory(prefix="mistralrs-dev-") as name:
        scratch = Path(name) / "repository.git"
        initialise(scratch, bare=True)
        made = scratch / _MADE
        made.mkdir()
        (scratch / "objects/info/alternates").write_text("".join(f"{folder}\n" for folder in (made, *objects)))
        yield scratch


def _uncommitted(clone: Clone, head: str, scratch: Path) -> str:
    """The commit of the work tree without ignored files; ``head`` itself for a clean tree."""
    if clone.work_tree is None:
        raise PipelineError("this repository has no work tree", str(clone.path), "Leave uncommitted out")
    if clone.work_tree != clone.path:
        raise PipelineError(
            f"core.worktree of this repository names another folder, {clone.work_tree}",
            where=str(clone.path),
            remedy="Run git config --unset core.worktree there, or leave uncommitted out",
        )
    if head != clone.commit("HEAD", scratch):
        raise PipelineError("uncommitted work is on top of HEAD", str(clone.path), "Leave out ref or uncommitted")
    # The copy keeps the times: git compares them to notice a change right after the index was written.
    index = scratch / "index"
    for file in (clone.git_dir / "index", *clone.git_dir.glob("sharedindex.*")):
        if file.is_file():
            shutil.copy2(file, scratch)
    if (clone.common / "info/exclude").is_file():
        (scratch / "info").mkdir(exist_ok=True)
        shutil.copy(clone.common / "info/exclude", scratch / "info")
    settings = {
        **clone.settings(), "core.bare": "false", "core.fsmonitor": "false", "core.untrackedCache": "false",
        "core.hooksPath": "/dev/null",
    }  # fmt: skip
    # The clone's objects stay out: git would touch those that it finds there.
    env = {**OFFLINE, "GIT_INDEX_FILE": str(index), "GIT_OBJECT_DIRECTORY": str(scratch / _MADE)}

    def there(*words: str, stdin: str | None = None) -> str:
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        where = [f"--git-dir={scratch}", f"--work-tree={clone.work_tree}", "-C", str(clone.work_tree)]
        return git(*options, *where, *words, env=env, stdin=stdin)

    try:
        listed = clone.index()
        _refuse_index(listed, clone.path)
        there("add", "--all", "--pathspec-from-file=-", "--pathspec-file-nul", stdin=_without_submodules(listed))
        tree = there("write-tree", "--missing-ok").strip()
        if tree == git("rev-parse", f"{head}^{{tree}}", repository=scratch).strip():
            return head
        who = f"{_PERSON} {parents_and_time(scratch, head)[1] + 1} +0000"
        commit = f"tree {tree}\nparent {head}\nauthor {who}\ncommitter {who}\n\nUncommitted work on {head}\n"
        return there("hash-object", "-t", "commit", "-w", "--stdin", stdin=commit).strip()
    except CommandFailed as error:
        raise PipelineError(
            f"the uncommitted work cannot be read: {error.what}", str(clone.path), "Fix that, or commit the work"
        ) from error


def _refuse_index(listed: str, where: Path) -> None:
    """PipelineError for an index that gives no tree, or only by entering a submodule."""
    for line in listed.split("\0"):
        about, _, path = line.partition("\t")
        if about and not about.endswith(" 0"):
            raise PipelineError(
                f"a merge is in progress: {path} has conflicts", str(where), "Finish it, then run again"
            )
        if about.startswith("040000 "):
            raise PipelineError(
                "the uncommitted work cannot be read from a sparse index",
                where=str(where),
                remedy="Run git sparse-checkout reapply --no-sparse-index there, or commit it",
            )
        if about.startswith("160000 ") and "\ufffd" in path:
            raise PipelineError(f"the name of the submodule {path} is no UTF-8", str(where), "Leave uncommitted out")


def _without_submodules(listed: str) -> str:
    """Pathspecs, each ended by NUL, of everything but the submodules of an index.

    In a submodule git add runs git status, with the programs that the submodule's configuration names.
    """
    rows = (line.partition("\t") for line in listed.split("\0"))
    modules = [path for about, _, path in rows if about.startswith("160000 ")]
    return "".join(f"{spec}\0" for spec in (".", *(f":(top,exclude,literal){path}" for path in modules)))


def _update(url: str, mirror: Path) -> list[str]:
    """Update the mirror. If that fails and there is a mirror already, returns a warning."""

    def read() -> None:
        git("rev-list", "--quiet", "--all", repository=mirror, env=OFFLINE)

    try:
        from_mirror(url, mirror, remote_refs(url), BRANCHES, read)
    except PipelineError as error:
        if not (mirror / "HEAD").is_file():
            raise
        return [f"{error.what}: the version comes from the releases known before"]
    return []


def _beyond(commit: str, scratch: Path) -> list[str]:
    """Warnings for files of the commit that the pack lacks, since git keeps them elsewhere."""
    rows = _listed(commit, scratch)
    modules = [path for mode, path in rows if mode == "160000"]
    attributes = [path for _, path in rows if path.rpartition("/")[2] == ".gitattributes"]
    large = [
        path for path in attributes if "filter=lfs" in git("cat-file", "blob", f"{commit}:{path}", repository=scratch)
    ]
    return [
        *(f"submodules are not brought to the builder: {', '.join(modules)}" for _ in modules[:1]),
        *(f"files of Git LFS are brought as pointers: {', '.join(large)}" for _ in large[:1]),
    ]


def _listed(commit: str, scratch: Path) -> list[tuple[str, str]]:
    lines = git("ls-tree", "-r", "-z", commit, repository=scratch, env=OFFLINE).split("\0")
    return [(line.split(" ", 1)[0], line.partition("\t")[2]) for line in lines if line]


def _pack(commits: Sequence[str], known: Iterable[str], scratch: Path, final: Path) -> None:
    """Write a pack of the commits and of those of their files that no ``known`` commit has."""
    trees = [f"^{other}^{{tree}}" for other in known if has(scratch, f"{other}^{{tree}}")]
    listed = git("rev-list", "--objects", "--stdin", repository=scratch, env=OFFLINE,
                 stdin="".join(f"{line}\n" for line in (*(f"{c}^{{tree}}" for c in commits), *trees)))  # fmt: skip
    name = git("pack-objects", "--quiet", scratch / "brought", repository=scratch, env=OFFLINE,
               stdin="".join(f"{commit}\n" for commit in commits) + listed)  # fmt: skip
    final.parent.mkdir(parents=True, exist_ok=True)
    for older in final.parent.glob("*.pack"):
        if time.time() - older.stat().st_mtime > _KEPT:
            older.unlink(missing_ok=True)
    shutil.move(scratch / f"brought-{name.strip()}.pack", final)
    final.chmod(0o600)
    # git gives a pack the time of its newest object.
    final.touch()
