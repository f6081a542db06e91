"""Which heads contradict what the signer knows, and what its memory holds afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Snapshot
from pipeline.channel.heads import EMPTY, HeadRefused, KnownHead, Memory, content_of, contradiction
from pipeline.channel.reader import EMPTY as NOTHING

NOW = 1_795_271_514
BAD, WORSE = "bad-1-1.x86_64.rpm", "worse-1-1.x86_64.rpm"


def snapshot(number: int, parent: int | None, *, name: str = "", yanked: tuple[str, ...] = ()) -> Snapshot:
    """Snapshot ``number`` of a chain, an hour after the one before; ``name`` marks those of another chain."""
    return Snapshot(
        id=id_of(number, name),
        channel="stable",
        parent="" if parent is None else id_of(parent),
        time=NOW - (10 - number) * 3600,
        reason="test",
        yanked=yanked,
    )


def id_of(number: int, name: str = "") -> str:
    return f"20261121T{number:02}0000Z-{name or 'aaaaaaaa'}"


CHAIN = {id_of(number): snapshot(number, number - 1 if number else None) for number in range(9)}
KNOWN = KnownHead("stable", "/srv", id_of(4), CHAIN[id_of(4)].time, content_of(CHAIN[id_of(4)], "repomd"))


def found(known: KnownHead, record: Snapshot, repomd: str = "repomd") -> str:
    return contradiction(known, record, content_of(record, repomd), CHAIN.get)


@pytest.mark.parametrize("number", [4, 5, 8])
def test_the_known_head_and_its_descendants_fit(number: int) -> None:
    assert found(KNOWN, CHAIN[id_of(number)]) == ""


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (CHAIN[id_of(3)], "is older than the known head, 20261121T040000Z-aaaaaaaa of 20"),
        (replace(CHAIN[id_of(4)], yanked=(BAD,)), "was rewritten: the known one has other content"),
        (NOTHING.record, "the repository is empty, its known head is 20261121T040000Z-aaaaaaaa"),
        (
            snapshot(5, 3, name="bbbbbbbb"),
            "does not descend .* its parent 20261121T030000Z-aaaaaaaa is no snapshot after",
        ),
        (snapshot(4, 3, name="bbbbbbbb"), "does not descend"),
        (snapshot(5, None, name="bbbbbbbb"), "does not descend .* its chain begins with 20261121T050000Z-bbbbbbbb"),
        (snapshot(12, 11), "does not descend .* has no snapshot 20261121T110000Z-aaaaaaaa"),
    ],
    ids=["older", "rewritten", "empty", "forked", "of the same time", "another chain", "pruned"],
)
def test_another_head_contradicts_the_memory(record: Snapshot, message: str) -> None:
    assert re.search(message, found(KNOWN, record)), found(KNOWN, record)


def test_a_rewritten_repomd_contradicts_the_memory() -> None:
    assert "was rewritten" in found(KNOWN, CHAIN[id_of(4)], "other repomd")


def test_a_chain_whose_times_do_not_rise_ends() -> None:
    """Two records that name each other as parents: only the holder of a key can make them."""
    loop = {id_of(5): replace(snapshot(5, 6)), id_of(6): replace(snapshot(6, 5))}
    assert "is no snapshot after the known one" in contradiction(KNOWN, loop[id_of(6)], "", loop.get)


def test_a_staged_snapshot_is_no_head_and_no_parent_of_one() -> None:
    known = replace(KNOWN, staged=(id_of(5),))
    assert "the head 20261121T050000Z-aaaaaaaa was staged by this signer, but never" in found(known, CHAIN[id_of(5)])
    assert "its parent 20261121T050000Z-aaaaaaaa was staged by this signer" in found(known, CHAIN[id_of(7)])


def test_staged_snapshots_are_remembered_until_they_are_published(memory: Memory) -> None:
    compare(memory, CHAIN[id_of(4)])
    for number in range(150):
        memory.staged(f"{number}")
    memory.staged(id_of(5))
    recalled = memory.recall()
    assert recalled
    assert (len(recalled.staged), recalled.staged[-1]) == (100, id_of(5))
    with pytest.raises(HeadRefused, match="staged by this signer, but never published"):
        compare(memory, CHAIN[id_of(5)])
    memory.publishing(id_of(5))
    assert compare(memory, CHAIN[id_of(5)]) == (), "it was published by a run that was killed"
    recalled = memory.recall()
    assert recalled
    assert (recalled.head, recalled.staged[-1]) == (id_of(5), "149")


def test_a_descendant_that_lacks_a_known_yank_contradicts_the_memory() -> None:
    known = replace(KNOWN, yanked=(BAD,))
    assert found(known, CHAIN[id_of(5)]).endswith(f"; it lacks known yanks: {BAD}")
    assert found(known, CHAIN[id_of(3)]).endswith(f"; it lacks known yanks: {BAD}")
    assert found(known, snapshot(5, 4, yanked=(BAD, WORSE))) == ""


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "heads", "stable", "/srv", now=lambda: NOW)


def compare(
    memory: Memory, record: Snapshot, ancestor: Callable[[str], Snapshot | None] = CHAIN.get
) -> tuple[str, ...]:
    return memory.compare(memory.recall(), record, "repomd", ancestor)


def test_the_first_head_is_taken_on_trust_with_one_note(memory: Memory) -> None:
    notes: list[str] = []
    memory = replace(memory, note=notes.append)
    assert compare(memory, NOTHING.record) == ()
    assert (notes, memory.recall()) == ([], None), "an empty repository is nothing to trust"
    for _ in range(2):
        assert compare(memory, CHAIN[id_of(4)]) == ()
    (note,) = notes
    assert f"takes the head {id_of(4)}" in note
    assert memory.recall() == KNOWN
    assert memory.path.stat().st_mode & 0o777 == 0o600
    assert memory.folder.stat().st_mode & 0o777 == 0o700


def test_the_known_head_costs_no_request_and_no_write(memory: Memory) -> None:
    def ancestor(snapshot: str) -> Snapshot:
        raise AssertionError(snapshot)

    compare(memory, CHAIN[id_of(4)], ancestor)
    written = memory.path.stat()
    compare(memory, CHAIN[id_of(4)], ancestor)
    assert (memory.path.stat().st_ino, memory.path.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    compare(memory, CHAIN[id_of(5)], ancestor)  # its parent is the known head


def test_repositories_have_memories_of_their_own(memory: Memory) -> None:
    compare(memory, CHAIN[id_of(4)])
    for other in (replace(memory, location="/srv/44"), replace(memory, channel="unstable")):
        assert other.recall() is None
        other.path.write_bytes(memory.path.read_bytes())
        with pytest.raises(HeadRefused, match="cannot be used: it is of stable at /srv"):
            other.recall()


def test_a_refused_head_is_not_remembered(memory: Memory) -> None:
    compare(memory, CHAIN[id_of(4)])
    with pytest.raises(HeadRefused, match=f"is older .*Nothing was changed.*accept_head={id_of(3)}; see docs/operate"):
        compare(memory, CHAIN[id_of(3)])
    with pytest.raises(HeadRefused, match="is empty, .*accept_head=empty"):
        compare(memory, NOTHING.record)
    assert memory.recall() == KNOWN


def test_check_mode_compares_and_remembers_nothing(memory: Memory) -> None:
    compare(replace(memory, keep=False), CHAIN[id_of(3)])
    assert not memory.folder.exists()


def test_an_accepted_head_owes_the_yanks_that_it_lacks(memory: Memory) -> None:
    compare(memory, snapshot(6, 5, yanked=(BAD, WORSE)))
    notes: list[str] = []
    accepting = replace(memory, accepted=(id_of(3), EMPTY), note=notes.append)
    old = replace(CHAIN[id_of(3)], yanked=(WORSE,))
    assert compare(accepting, old) == (BAD,)
    assert f"accepted as the operator asks (accept_head): the head {id_of(3)} is older" in notes[0]
    assert compare(memory, old) == (BAD,), "it is the known head now"
    assert compare(accepting, NOTHING.record) == (BAD, WORSE)
    assert compare(memory, NOTHING.record) == (BAD, WORSE)
    assert compare(memory, snapshot(9, None, yanked=(WORSE,))) == (BAD,)
    assert compare(memory, replace(snapshot(11, 9), time=NOW, yanked=(BAD, WORSE))) == ()


def test_only_the_named_head_is_accepted(memory: Memory) -> None:
    compare(memory, CHAIN[id_of(6)])
    with pytest.raises(HeadRefused, match="is older"):
        compare(replace(memory, accepted=(id_of(4), EMPTY)), CHAIN[id_of(3)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel": "unstable"}, "is a snapshot of the channel unstable, not stable"),
        ({"time": NOW + 7200}, "is dated in the future: 2026-.* UTC here.*Check the clocks"),
    ],
)
def test_a_head_of_another_channel_or_of_the_future_is_never_trusted(memory: Memory, change, message: str) -> None:
    record = replace(CHAIN[id_of(4)], **change)
    with pytest.raises(HeadRefused, match=message):
        compare(replace(memory, accepted=(record.id,)), record)
    assert not memory.folder.exists()


def test_a_slower_run_does_not_set_the_memory_back(memory: Memory) -> None:
    """Another run on this host publishes between the recall and the comparison."""
    compare(memory, CHAIN[id_of(3)])
    known = memory.recall()
    memory.published(CHAIN[id_of(5)], "repomd")
    memory.compare(known, CHAIN[id_of(4)], "repomd", CHAIN.get)
    recalled = memory.recall()
    assert recalled
    assert recalled.head == id_of(5)


def write(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere.json"))
    path.symlink_to("elsewhere.json")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (write(""), "not JSON"),
        (write('{"head": 1'), "not JSON"),
        (write("[]"), "lacks channel"),
        (write("7"), "not JSON"),
        (write(json.dumps(KNOWN.to_dict() | {"time": "now"})), "KnownHead.time must be int"),
        (write(json.dumps(KNOWN.to_dict() | {"more": 1})), "unknown keys more"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "not JSON"),
        (link, "it is a link"),
        (folder, "Is a directory"),
        (lambda path: path.chmod(0o666), "no file that only this account can write"),
    ],
    ids=[
        "empty",
        "truncated",
        "a list",
        "a number",
        "a wrong type",
        "more keys",
        "no text",
        "a link",
        "a folder",
        "mode",
    ],
)
def test_a_damaged_memory_is_never_taken_for_none(memory: Memory, damage, message: str) -> None:
    compare(memory, CHAIN[id_of(4)])
    damage(memory.path)
    for accepted in ((), (id_of(4),)):
        with pytest.raises(HeadRefused, match=f"memory of stable cannot be used: .*{message}.*Restore the file"):
            compare(replace(memory, accepted=accepted), CHAIN[id_of(4)])


def test_a_memory_that_cannot_be_written_is_an_error(memory: Memory) -> None:
    memory.folder.write_text("no folder")
    with pytest.raises(PipelineError, match=r"memory of stable cannot be (written|used): .*(disk space|Restore)"):
        compare(memory, CHAIN[id_of(4)])
