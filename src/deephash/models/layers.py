"""The layers of a network in their order, for rates by depth and gradient checkpointing."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

REASON = "trainer.gradient_checkpointing reads the state of the random generator"


def layers(network: nn.Module) -> list[list[nn.Module]]:
    """Divide a network into layers, from the input to the output.

    A layer is a module with a matrix or a kernel, such as a convolution or a transformer block,
    and the modules after it that have none (normalization, activation). The network itself,
    ``nn.Sequential``, ``nn.ModuleList``, and the stack of blocks of torchvision's vision
    transformers are divided further.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2))
        >>> [[type(module).__name__ for module in layer] for layer in layers(network)]
        [['Linear', 'LayerNorm', 'ReLU'], ['Linear']]
    """
    result: list[list[nn.Module]] = [[]]
    begun = False
    for module in _undivided(network, divide=True):
        matrix = any(parameter.ndim > 1 for parameter in module.parameters())
        if matrix and begun:
            result.append([])
        begun = begun or matrix
        result[-1].append(module)
    return result


def layer_parameters(network: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of each of the `layers`.

    Parameters of the network outside of them, such as a class token or a position embedding,
    belong to the first layer.
    """
    divided = [[p for module in layer for p in module.parameters()] for layer in layers(network)]
    inside = {id(p) for layer in divided for p in layer}
    divided[0] = [*(p for p in network.parameters() if id(p) not in inside), *divided[0]]
    return divided


def checkpoint_layers(network: nn.Module) -> int:
    """Keep only the inputs of the `layers`, and compute the rest again in the backward pass.

    Results are the same: dropout draws the same numbers again, and the statistics of batch norm
    are updated once.

    Returns:
        The number of modules whose activations are computed again. It is 0 for a plain sequence of
        operators, such as VGG: an operator has only its input to keep.
    """
    modules = [
        module
        for layer in layers(network)
        for module in layer
        if next(module.children(), None) is not None
    ]
    for module in modules:
        _checkpoint(module)
    return len(modules)


def _undivided(module: nn.Module, divide: bool = False) -> Iterator[nn.Module]:
    """Yield the modules of a network that are not divided further, in their order."""
    from torchvision.models.vision_transformer import Encoder

    if divide or type(module) in (nn.Sequential, nn.ModuleList) or isinstance(module, Encoder):
        for child in module.children():
            yield from _undivided(child)
    else:
        yield module


def _checkpoint(module: Any) -> None:
    """Replace the forward pass of a module by one that keeps only its input."""
    forward = module.forward
    module.uncapturable = REASON

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _kept_statistics(module)

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if not module.training:
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    module.forward = checkpointed


@contextmanager
def _kept_statistics(module: nn.Module) -> Iterator[None]:
    """Normalize by the statistics of the batch, and do not update the running ones."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, count) in zip(norms, before, strict=True):
        norm.momentum = 0.0  # of the new statistics
        norm.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
