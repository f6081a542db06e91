"""The builders' shares of flavours are deterministic and fair, and another builder takes over from a lost one."""

from __future__ import annotations

import pytest
from pipeline.base.errors import PipelineError
from pipeline.plan.outcomes import BUILT, FAILED, HANDED_ON, SKIPPED, FlavourOutcome, failures, outcomes_of
from pipeline.plan.spread import Builder, HandedOver, MissingFlavour, handed_over, spread

TABLE = ["ampere", "ada", "blackwell"]
FORGE, ANVIL = Builder("forge"), Builder("anvil")
DONE = FlavourOutcome(BUILT, file="/inbox/ada.tar")
BROKEN = FlavourOutcome(FAILED, "Build", "the build failed")
FULL = FlavourOutcome(HANDED_ON, "Check the builder", "the disk is full")


def test_one_builder_has_all_in_the_tables_order():
    found = spread(TABLE, [FORGE], TABLE)
    assert found.shares == {"forge": ("ampere", "ada", "blackwell")}
    assert (found.missing, found.lost) == ((), ())


@pytest.mark.parametrize(
    ("builders", "wanted", "shares"),
    [
        pytest.param([FORGE, ANVIL], TABLE, {"forge": ("ampere", "blackwell"), "anvil": ("ada",)}, id="in turn"),
        pytest.param([FORGE, ANVIL], ["ada"], {"anvil": ("ada",)}, id="one flavour stays with its cache"),
        pytest.param(
            [FORGE, ANVIL], ["ampere", "blackwell"], {"forge": ("ampere",), "anvil": ("blackwell",)},
            id="two flavours of one builder are distributed",
        ),
        pytest.param(
            [FORGE, Builder("anvil", flavours=("ada",))], ["ada", "blackwell"],
            {"anvil": ("ada",), "forge": ("blackwell",)}, id="a restricted builder gets its flavours",
        ),
        pytest.param(
            [Builder("forge", weight=3), ANVIL], TABLE, {"forge": tuple(TABLE)}, id="a fast one gets more"
        ),
        pytest.param([Builder("forge", answers=False), ANVIL], TABLE, {"anvil": tuple(TABLE)}, id="one is down"),
        pytest.param([Builder("forge", in_run=False), ANVIL], TABLE, {"anvil": tuple(TABLE)}, id="one is excluded"),
    ],
)  # fmt: skip
def test_flavours_are_distributed(builders, wanted, shares):
    assert spread(wanted, builders, TABLE).shares == shares
    assert spread(wanted, builders, TABLE).missing == ()
    assert spread(wanted, builders, TABLE).lost == tuple(b.name for b in builders if not b.answers)


def test_another_builder_takes_over_from_a_lost_one_whose_builds_count():
    given = {"forge": ["ampere", "blackwell"], "anvil": ["ada"]}
    forge = Builder("forge", outcomes={"ampere": DONE})
    found = spread(TABLE, [forge, Builder("anvil", outcomes={"ada": DONE})], TABLE, given=given)
    assert found.lost == ("forge",)
    assert found.shares == {"anvil": ("blackwell",)}
    assert found.summary == "forge is lost; blackwell by anvil"
    anvil = Builder("anvil", outcomes={"ada": DONE, "blackwell": DONE})
    again = spread(TABLE, [forge, anvil], TABLE, given=found.shares, lost=found.lost)
    assert (again.shares, again.missing, again.lost) == ({}, (), ("forge",))


@pytest.mark.parametrize("state", [SKIPPED, BUILT])
def test_a_flavour_that_is_settled_is_neither_missing_nor_built_again(state):
    anvil = Builder("anvil", outcomes={"ada": FlavourOutcome(state)})
    found = spread(["ada"], [FORGE, anvil], TABLE, given={"anvil": ["ada"]})
    assert (found.shares, found.missing, found.lost) == ({}, (), ())


def test_a_compile_error_is_not_tried_elsewhere():
    builders = [FORGE, Builder("anvil", outcomes={"ada": BROKEN})]
    found = spread(["ada"], builders, TABLE, given={"anvil": ["ada"]})
    missing = MissingFlavour("ada", "ada (task Build): the build failed")
    assert (found.shares, found.missing, found.lost) == ({}, (missing,), ())


def test_a_failed_check_hands_the_flavour_on_until_no_builder_is_left():
    anvil = Builder("anvil", outcomes={"ada": FULL})
    found = spread(["ada"], [FORGE, anvil], TABLE, given={"anvil": ["ada"]})
    assert (found.shares, found.lost) == ({"forge": ("ada",)}, ())
    forge = Builder("forge", outcomes={"ada": FULL})
    found = spread(["ada"], [forge, anvil], TABLE, given={"forge": ["ada"]})
    assert found.shares == {}
    (missing,) = found.missing
    reason = "ada (task Check the builder): the disk is full"
    assert missing.reason == f"{reason} [forge]; {reason} [anvil]"
    (alone,) = spread(["ada"], [anvil], TABLE, given={"anvil": ["ada"]}).missing
    assert alone.reason == reason


def test_after_the_last_round_an_unbuilt_flavour_is_missing():
    builders = [Builder(name, outcomes={"ada": FULL}) for name in ("forge", "anvil")] + [Builder("tongs")]
    assert spread(["ada"], builders, TABLE, given={"anvil": ["ada"]}).shares == {"tongs": ("ada",)}
    found = spread(["ada"], builders, TABLE, given={"anvil": ["ada"]}, last=True)
    assert found.shares == {}
    (missing,) = found.missing
    assert missing.reason == "ada: tongs could build it, but no round is left: run again"


def test_the_error_without_a_remaining_builder_names_each_builder():
    builders = [Builder("forge", answers=False), Builder("anvil", flavours=("ada",)), Builder("tongs", in_run=False)]
    (missing,) = spread(["ampere"], builders, TABLE).missing
    assert missing.reason == (
        "ampere: forge is lost; ampere: anvil may not build it (builder_flavours); "
        "ampere: tongs has no part in this run (--limit)"
    )


def test_an_unknown_flavour_is_refused():
    with pytest.raises(PipelineError, match=r"there is no flavour hopper .*Choose from: ampere, ada, blackwell"):
        spread(TABLE, [Builder("forge", flavours=("hopper",))], TABLE)


def test_what_was_handed_over_is_for_the_signer_to_package():
    builders = [FORGE, Builder("anvil", outcomes={"ada": DONE, "ampere": BROKEN})]
    assert handed_over(TABLE, builders) == {"ada": (HandedOver("anvil", "/inbox/ada.tar"),)}


# ---------------------------------------------------------------- agreement


def with_outcomes(name: str, **outcomes: FlavourOutcome) -> Builder:
    return Builder(name, outcomes=outcomes)


def test_two_builders_that_must_agree_build_all_flavours_at_once():
    found = spread(TABLE, [FORGE, ANVIL], TABLE, agreement=2)
    assert found.shares == {"forge": tuple(TABLE), "anvil": tuple(TABLE)}
    assert found.missing == ()


def test_of_three_builders_two_build_each_flavour():
    found = spread(TABLE, [FORGE, ANVIL, Builder("tongs")], TABLE, agreement=2)
    counts = [sum(flavour in share for share in found.shares.values()) for flavour in TABLE]
    assert counts == [2, 2, 2]
    assert max(map(len, found.shares.values())) == 2


def test_one_builder_cannot_agree_with_itself():
    with pytest.raises(
        PipelineError, match=r"agreement is 2, and the inventory has 1 builder: .*set agreement: 1. Noth"
    ):
        spread(TABLE, [FORGE], TABLE, agreement=2)
    with pytest.raises(PipelineError, match="agreement is 0"):
        spread(TABLE, [FORGE], TABLE, agreement=0)


def test_a_flavour_that_enough_builders_built_is_settled():
    builders = [with_outcomes("forge", ada=DONE), with_outcomes("anvil", ada=DONE)]
    found = spread(["ada"], builders, TABLE, given={"forge": ["ada"], "anvil": ["ada"]}, agreement=2)
    assert (found.shares, found.missing) == ({}, ())
    assert [one.builder for one in handed_over(["ada"], builders, 2)["ada"]] == ["forge", "anvil"]


def test_a_third_builder_takes_over_from_a_lost_one_of_two():
    builders = [with_outcomes("forge", ada=DONE), ANVIL, Builder("tongs")]
    found = spread(["ada"], builders, TABLE, given={"forge": ["ada"], "anvil": ["ada"]}, agreement=2)
    assert found.lost == ("anvil",)
    assert found.shares == {"tongs": ("ada",)}
    assert handed_over(["ada"], builders, 2) == {}


def test_a_flavour_of_one_builder_alone_is_not_published_and_the_reason_names_each_builder():
    builders = [with_outcomes("forge", ada=DONE), ANVIL]
    found = spread(["ada"], builders, TABLE, given={"forge": ["ada"], "anvil": ["ada"]}, agreement=2)
    (missing,) = found.missing
    assert missing.reason == (
        "ada: 2 builders must build the same bytes (agreement); ada: forge built it; ada: anvil is lost"
    )
    assert handed_over(["ada"], builders, 2) == {}


def test_a_flavour_that_too_few_may_build_is_not_built_at_all():
    builders = [FORGE, Builder("anvil", flavours=("ampere",))]
    found = spread(["ada", "ampere"], builders, TABLE, agreement=2)
    assert found.shares == {"forge": ("ampere",), "anvil": ("ampere",)}
    assert [row.flavour for row in found.missing] == ["ada"]


def test_a_compile_error_of_one_of_two_is_final():
    builders = [with_outcomes("forge", ada=DONE), with_outcomes("anvil", ada=BROKEN)]
    found = spread(["ada"], builders, TABLE, given={"forge": ["ada"], "anvil": ["ada"]}, agreement=2)
    assert (found.shares, [row.flavour for row in found.missing]) == ({}, ["ada"])
    assert handed_over(["ada"], builders, 2) == {}


def test_after_the_last_round_both_builders_are_named():
    found = spread(["ada"], [FORGE, ANVIL], TABLE, last=True, agreement=2)
    (missing,) = found.missing
    assert missing.reason == "ada: forge and anvil could build it, but no round is left: run again"


def test_failures_are_those_of_upstream_or_of_the_builder():
    fact = {
        "ampere": {"state": "failed", "task": "Build", "message": "error: expected one of", "upstream": True},
        "ada": {"state": "failed", "task": "Check the builder", "message": "the disk is full"},
        "blackwell": {"state": "warmed"},
    }
    outcomes = outcomes_of(fact)
    broken, full = "ampere (task Build): error: expected one of", "ada (task Check the builder): the disk is full"
    assert failures(outcomes) == [broken, full]
    assert failures(outcomes, upstream=True) == [broken]
    assert failures(outcomes, upstream=False) == [full]


def test_the_module_reads_answers_and_outcomes_in_the_builders_order(run_module):
    ada, ampere = ({"name": name, "summary": "a GPU"} for name in ("ada", "ampere"))
    pong, lost = {"ping": "pong"}, {"unreachable": True}
    arguments = {
        "flavours": [ampere, ada],
        "table": [ampere, ada],
        "builders": [{"name": "forge"}, {"name": "anvil"}, {"name": "tongs"}],
        "answers": [lost, pong, {}],
        "outcomes": [{}, {"ada": {"state": "failed", "task": "Build", "message": "no"}}, {}],
        "given": {"anvil": [ada]},
    }
    done = run_module("flavour_spread", arguments)
    assert (done["changed"], done["lost"], done["handed"]) == (False, ["forge"], [])
    assert [row["name"] for row in done["shares"].pop("anvil")] == ["ampere"]
    assert done["shares"] == {}
    assert done["missing"] == [{"flavour": "ada", "reason": "ada (task Build): no"}]
    assert done["step"]["result"] == "forge is lost; ampere by anvil"


def test_an_unknown_state_of_an_outcome_is_an_error() -> None:
    """A playbook writes it: a misspelt one would otherwise lose the flavour without a word."""
    with pytest.raises(PipelineError, match="unknown state 'pakaged'.*built, failed, handed_on"):
        outcomes_of({"ada": {"state": "pakaged"}})
