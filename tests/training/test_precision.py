import pytest
import torch

from deephash.training.precision import autocast


@pytest.mark.parametrize(
    ("precision", "kind"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_a_product_is_of_that_kind(precision, kind):
    with autocast(torch.device("cpu"), precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == kind
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
