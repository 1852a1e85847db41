"""The benchmark of the training step: the operators that it counts, and its tables."""

import pytest
import torch

CASE = "relahash, tiny"


@pytest.fixture(scope="module")
def bench(script):
    return script("step")


def names(bench, function):
    counting = bench.Operators()
    with counting:
        function()
    return dict(counting.counts["data"])


def test_views_and_allocations_do_not_count(bench):
    there, here = torch.zeros(4, 6, device="meta"), torch.zeros(4, 6)

    def work():
        rows = there.T[1:].reshape(-1, 2).unsqueeze(0)  # one copy: it is no view of a transposed
        torch.empty_like(rows).detach()
        rows.add_(1)
        (here + 1).mul_(2)  # on the CPU
        here.to("meta")

    assert names(bench, work) == {"clone": 1, "add_": 1, "_to_copy": 1}


def test_an_operator_on_many_tensors_counts_once(bench):
    many = [torch.zeros(3, device="meta") for _ in range(5)]
    assert names(bench, lambda: torch._foreach_add_(many, 1)) == {"_foreach_add_": 1}


def test_a_step_is_counted_by_section(bench):
    result = bench.operators(CASE, 32, 4)
    count = {name: sum(section.values()) for name, section in result.items()}
    assert set(count) == set(bench.SECTIONS)
    assert all(count.values())
    assert result["norm"] == {"_foreach_norm": 1, "stack": 1, "linalg_vector_norm": 1}
    assert result["optimizer"] == {"_foreach_add_": 2, "_fused_adam_": 2}
    assert result["record"] == {"stack": 1}
    assert result["forward"]["convolution"] == result["backward"]["convolution_backward"] == 3
    assert result["data"]["_to_copy"] <= 4
    assert "index_put_" not in result["data"]
    assert bench.fills(CASE, 32, 4) > 50
    cropped = bench.operators(f"{CASE}, RandomResizedCrop", 32, 4)
    assert cropped["data"]["bmm"] == 2
    assert cropped["data"]["_to_copy"] <= 3


def test_it_prints_both_tables(bench, capsys):
    words = ["--cases", CASE, "--timed", CASE, "--size", "32", "--time-size", "32",
             "--batch-size", "4", "--steps", "2", "--rounds", "1"]  # fmt: skip
    assert bench.main(words) == 0
    out = capsys.readouterr().out
    assert "| operators of a step | data |" in out
    assert "| ms a step | bare loop |" in out
    assert out.count(f"| {CASE} | ") == 2
