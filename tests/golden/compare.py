"""Compare results with the golden values, which are bits of one kind of machine.

Where torch's version, its CPU capability and the model of the CPU are those of the golden values,
all bits must agree. Elsewhere other kernels add in another order, and training amplifies that: the
first 10 steps must then agree to a relative 1e-4 (norms of gradients 1e-3), 50 to 0.1, and mAP to
0.02. (With AVX2's kernels instead of AVX-512's, losses differ by 1e-6 after 10 steps and by up to
0.05 after 50.)
"""

import json
from typing import Any

from tests.golden import make

VALUES = json.loads(make.VALUES.read_text())
EXACT = make.platform() == VALUES["platform"]


def check_terms(result: dict[str, list[str]], golden: dict[str, list[str]]) -> None:
    """Compare the terms of each step, hexadecimal numbers."""
    assert list(result) == list(golden)
    for term in golden:
        assert len(result[term]) == len(golden[term]), term
        if EXACT:
            steps = [
                at
                for at, pair in enumerate(zip(result[term], golden[term], strict=True))
                if pair[0] != pair[1]
            ]
            assert not steps, f"{term} differs from step {steps[0] + 1} on, {len(steps)} steps"
        for at, (a, b) in enumerate(zip(result[term], golden[term], strict=True)):
            early = 1e-3 if term == "grad_norm" else 1e-4
            close(a, b, early if at < 10 else 0.1, f"{term}, step {at + 1}")


def check_map(result: Any, golden: str) -> None:
    """Compare a mAP with a hexadecimal number."""
    if EXACT:
        assert float(result).hex() == golden
    assert abs(float(result) - float.fromhex(golden)) <= 0.02


def close(a: str, b: str, relative: float, name: str) -> None:
    """Compare two hexadecimal numbers up to a relative difference."""
    x, y = float.fromhex(a), float.fromhex(b)
    assert abs(x - y) <= relative * abs(y), f"{name}: {x} instead of {y}"
