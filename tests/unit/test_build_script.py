"""The commits of CUTLASS that a build script uses for a GPU: what its text does not show counts."""

from __future__ import annotations

import pytest
from pipeline.source.build_script import used_commits

ONE, TWO, DEFAULT = "1" * 40, "2" * 40, "d" * 40
CALL = f'b.with_cutlass(Some("{ONE}"));'


@pytest.mark.parametrize(
    ("script", "commits"),
    [
        (f'fn main() {{ KernelBuilder::new().with_cutlass(Some("{ONE}")) }}', (ONE,)),
        (f'const CUTLASS_COMMIT: &str = "{ONE}";\nbuilder.with_cutlass(Some(CUTLASS_COMMIT))', (ONE,)),
        (f'const C: &str = "{ONE}"; let c = var("X").unwrap_or(C.to_string()); b.with_cutlass(Some(&c))', (ONE,)),
        (
            f'const A: &str = "{ONE}"; const B: &str = "{TWO}"; b.with_cutlass(Some(A)); b.with_cutlass(Some(B))',
            (ONE, TWO),
        ),
        (f'const A: &str = "{ONE}"; const B: &str = "{TWO}"; b.with_cutlass(Some(B))', (TWO,)),
        (f'const A: &str = "{ONE}"; const B: &str = "{TWO}"; b.with_cutlass(Some(&chosen()))', (ONE, TWO)),
        ("builder.with_cutlass(None)", (DEFAULT,)),
        ("builder.with_cutlass(Some(&elsewhere()))", (DEFAULT,)),
        (f'const OTHER: &str = "{ONE}"; fn main() {{}}', ()),
        (f'// b.with_cutlass(Some("{ONE}"))\n/* b.with_cutlass(None) */', ()),
    ],
)
def test_a_call_leads_to_its_commit(script: str, commits: tuple[str, ...]) -> None:
    assert used_commits(script, DEFAULT, "89", ["cuda"]) == commits


def test_an_unknown_commit_is_empty():
    assert used_commits("b.with_cutlass(None)", "", "89", []) == ("",)


CAP = "let compute_cap = b.get_compute_cap().unwrap_or(80);"


@pytest.mark.parametrize(
    "block",
    [
        f"{CAP} if compute_cap == 90 {{ {CALL} }}",
        f"{CAP} if compute_cap >= 90 && !target.contains(\"{{\") {{ let x = '}}'; {CALL} }}",
        f"{CAP} let hopper = compute_cap == 90\n && (major > 12 || major == 12 && minor >= 8); if hopper {{ {CALL} }}",
        f"{CAP} if compute_cap < 90 {{ other(); }} else {{ {CALL} }}",
        f"{CAP} if compute_cap < 90 {{ a(); }} else if windows() {{ b(); }} else if compute_cap > 100 {{ {CALL} }}",
        f"fn f(compute_cap: usize) {{ if !(compute_cap <= 89) {{ for k in kernels {{ {CALL} }} }} }}",
        f'#[cfg(feature = "metal")]\nfn main() -> Result<(), String> {{ {CALL} }}',
        f'#[cfg(all(unix, not(any(not(feature = "metal"), windows))))]\nmod build {{ fn f() {{ {CALL} }} }}',
        f'if cfg!(feature = "metal") {{ {CALL} }}',
    ],
)
def test_a_call_under_a_condition_that_is_false_does_not_count(block: str) -> None:
    assert used_commits(block, "", "89", ["cuda"]) == ()
    assert used_commits(block, "", "", None) == (ONE,), "nothing is known of the GPU and the features"


@pytest.mark.parametrize(
    "block",
    [
        f"{CAP} if compute_cap >= 80 {{ {CALL} }}",
        f"{CAP} if compute_cap == 90 || forced {{ {CALL} }}",
        f"{CAP} if compute_cap == 90 {{ }} {CALL}",
        f"{CAP} if let Some(compute_cap) = other() {{ {CALL} }}",
        f"{CAP} if compute_cap == 90 {{ a(); }} else {{ {CALL} }}",
        f"let compute_cap_major = compute_cap / 10; if compute_cap_major == 9 {{ {CALL} }}",
        f"let compute_cap = cap() / 10; if compute_cap == 90 {{ {CALL} }}",
        f"{CAP} if compute_cap == 9 {{ {CALL} }}",
        f"let hopper = compute_cap == 90; let hopper = true; if hopper {{ {CALL} }}",
        f"let a = b; let b = a; if a {{ {CALL} }}",
        f'#[cfg(feature = "cuda")]\nfn main() {{ {CALL} }}',
        f'#[cfg(not(feature = "cuda"))]\nfn main() {{ {CALL} }}',
        f"match compute_cap {{ 90 => {{ {CALL} }} _ => {{}} }}",
        f"if kernels.iter().any(|k| k.cap == 90) {{ {CALL} }}",
        f"if compute_cap == {{ 90 }} {{ {CALL} }}",
        f"if ( {{ {CALL} }}",
    ],
)
def test_a_call_counts_unless_a_condition_is_certainly_false(block: str) -> None:
    assert used_commits(block, "", "89", ["cuda"]) == (ONE,)
