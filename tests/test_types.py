"""Batches and outputs made from what a loop of one's own has."""

import pytest
import torch

from deephash.losses import LMCL, Batch, Output, PairwiseLikelihood
from deephash.methods.dpn import Polarization
from deephash.models.codebooks import MaxHamming
from deephash.models.similarities import Cosine

Z = torch.tensor([[0.5, -0.9, 1.5, 0.25], [-0.75, 0.5, -0.25, 1.1]])


def test_class_indices_and_multi_hot_rows_are_the_same_batch():
    by_class = Batch.of(torch.tensor([2, 0], dtype=torch.int16), num_classes=3)
    multi_hot = Batch.of(torch.tensor([[False, False, True], [True, False, False]]))
    assert by_class.labels.dtype == multi_hot.labels.dtype == torch.float32
    assert torch.equal(by_class.labels, multi_hot.labels) and by_class.num_views == 1


def test_labels_are_repeated_for_views():
    batch = Batch.of(torch.tensor([2, 0]), 3, num_views=2)
    assert batch.targets.argmax(1).tolist() == [2, 0, 2, 0]


def test_a_batch_without_labels():
    with pytest.raises(RuntimeError, match="has no labels"):
        _ = Batch.of(None, num_views=2).labels


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (torch.tensor([0, 1]), {}, "Give num_classes"),
        (torch.tensor([0, 3]), {"num_classes": 3}, "from 0 to 3, and num_classes is 3"),
        (torch.tensor([-1, 0]), {"num_classes": 3}, "from -1 to 0"),
        (torch.tensor([0.0, 1.0]), {"num_classes": 3}, "class indices are integers"),
        (torch.eye(2), {"num_classes": 3}, r"the shape \(2, 2\): .* \(B, 3\)"),
        (torch.zeros(2, 2, 2), {}, r"multi-hot rows \(B, C\)"),
        (torch.eye(2), {"index": torch.arange(3)}, "one position for each of 2 images"),
    ],
)
def test_bad_labels(labels, options, message):
    with pytest.raises(ValueError, match=message):
        Batch.of(labels, **options)


def test_a_loss_names_the_field_that_it_misses():
    batch = Batch.of(torch.tensor([0, 1]), num_classes=3)
    with pytest.raises(ValueError, match=r"reads output\.logits, which is None"):
        LMCL(3, 4, scale=8, margin=0.5)(Output.of(Z), batch)
    with pytest.raises(ValueError, match=r"reads output\.centers, which is None"):
        Polarization(num_train=2, nbit=4, num_classes=3, seed=0)(Output.of(Z), batch)


def test_a_memory_needs_the_positions_of_the_images():
    loss = PairwiseLikelihood(num_train=5, nbit=4, num_classes=3, pairs="memory")
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"Batch\.of\(labels, index=\.\.\.\)"):
        loss(Output.of(Z), Batch.of(labels, 3))
    loss(Output.of(Z), Batch.of(labels, 3, index=torch.tensor([4, 0])))
    assert torch.equal(loss.memory.codes[[4, 0]], Z)


def test_a_loss_on_the_device_of_its_labels():
    batch = Batch.of(torch.eye(2, device="meta"))
    assert {tensor.device.type for tensor in batch.tensors()} == {"meta"}


def test_a_loop_of_ones_own_learns():
    torch.manual_seed(0)
    codebook, similarity = MaxHamming(3, 16, seed=0), Cosine()
    loss = LMCL(3, 16, scale=8, margin=0.2)
    head = torch.nn.Linear(3, 16)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5)
    labels = torch.tensor([0, 1, 2])
    values = []
    for _ in range(50):
        z = head(torch.eye(3)[labels])
        output = Output.of(z, logits=similarity(z, codebook()))
        value = sum(loss(output, Batch.of(labels, 3)).values())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[0] > 1 and values[-1] < 0.05
