"""SDC, BMVC 2023.

Ng et al., "Unsupervised Hashing with Similarity Distribution Calibration".
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn

from deephash.errors import raise_first
from deephash.losses.contrastive import nt_xent
from deephash.losses.matching import pair_cosines
from deephash.losses.quantization import quantization
from deephash.types import Batch, Output, Terms
from deephash.utils.bounds import NonNegative, Positive


class SimilarityCalibration(nn.Module):
    r"""Calibration of code similarities to a distribution, by the ranks of feature similarities.

    .. math:: L = w_r \frac1P \sum_p | s_{(p)} - C_p | +
              w_q \frac1N \sum_i \left( 1 - \cos(v_i, \mathrm{sign}\, v_i) \right), \qquad
              C_p = 2 F^{-1}\!\left( \tfrac{2p - 1}{2P} \right) - 1

    s are the cosines of the codes v of P pairs of images, ordered by the cosines of the images'
    features: s_(1) belongs to the pair with the least similar features. F is the distribution
    function of Beta(alpha, beta), so the targets C_p cover [-1, 1] for all features. Only the ranks
    of feature similarities are used; pairs of equal similarity keep the order of the batch.

    Pairs are formed by position, the first half of the batch with the second (``position_pairs``).
    The last row of an odd batch is in no pair, but in the quantization term. For a batch of one
    image the first term is 0. The sign of 0 is +1, as in retrieval. Features are detached, and
    labels are not read. Reads ``z`` (N, K), which is v, and ``features`` (N, D).

    Args:
        reconstruction: w_r, weight of the first term.
        reconstruction_form: function of the differences s - C. ``l1``: absolute value. ``l2``:
            square. ``relu``: positive part.
        calibration: distribution of C. ``beta``: Beta on [-1, 1]. ``gaussian``: N(0, std^2),
            clipped to [-1, 1], the range of cosines.
        beta_ab: alpha and beta.
        beta_a: alpha; None: `beta_ab`. Set both or neither of `beta_a` and `beta_b`.
        beta_b: beta.
        std: standard deviation of ``gaussian``.
        clamp: whether negative C are set to 0, the cosine of orthogonal codes.
        quantization: w_q, weight of the second term.
        quantization_form: ``cosine``, or a mean over all entries of v - sign v: ``l1`` absolute,
            ``l2`` squared, ``l3`` cubed.

    Raises:
        ConfigError: only one of `beta_a` and `beta_b` is set, or all weights are 0.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 2.0]])
        >>> v = torch.tensor([[2.0, 1.0], [1.0, -1.0], [1.0, -2.0], [3.0, 1.0]])
        >>> terms = SimilarityCalibration()(Output.of(v, features=x), Batch.of(None))
        >>> {name: round(term.item(), 4) for name, term in terms.items()}
        {'reconstruction': 0.2236, 'quantization': 0.0521}
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "features"})
    views: ClassVar[int] = 1
    labels: ClassVar[bool] = False

    def __init__(
        self,
        reconstruction: NonNegative = 1.0,
        reconstruction_form: Literal["l1", "l2", "relu"] = "l1",
        calibration: Literal["beta", "gaussian"] = "beta",
        beta_ab: Positive = 5.0,
        beta_a: Positive | None = None,
        beta_b: Positive | None = None,
        std: Positive = 0.3,
        clamp: bool = False,
        quantization: NonNegative = 1.0,
        quantization_form: Literal["cosine", "l1", "l2", "l3"] = "cosine",
    ) -> None:
        super().__init__()
        weights = {"reconstruction": reconstruction, "quantization": quantization}
        raise_first(self.refused({"beta_a": beta_a, "beta_b": beta_b, **weights}))
        self.reconstruction = reconstruction
        self.reconstruction_form = reconstruction_form
        self.calibration = calibration
        self.beta_a = beta_ab if beta_a is None else beta_a
        self.beta_b = beta_ab if beta_b is None else beta_b
        self.std = std
        self.clamp = clamp
        self.quantization = quantization
        self.quantization_form = quantization_form
        self._targets: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}

    @classmethod
    def refused(cls, options: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """Check the options: return the key, the fault and what to type instead."""
        if not _calibrates(options):
            message = "is 0, and so is quantization: no term of the loss is left."
            return [("reconstruction", message, "Set one of the two to a weight above 0.")]
        return _check_beta(options)

    def forward(self, output: Output, batch: Batch) -> Terms:
        terms = {}
        if self.reconstruction:
            terms["reconstruction"] = self.reconstruction * self.difference(output)
        if self.quantization:
            form = self.quantization_form
            terms["quantization"] = self.quantization * quantization(output.z, form)
        return terms

    def difference(self, output: Output) -> Tensor:
        """Compute the mean difference between the ordered code similarities and C: a scalar."""
        order = pair_cosines(output.require("features").detach(), self.views).argsort(stable=True)
        s = pair_cosines(output.z, self.views)[order]
        gap = s - self.targets(len(s), s.device, s.dtype)
        if self.reconstruction_form == "relu":
            gap = gap.relu()
        else:
            gap = gap.abs() if self.reconstruction_form == "l1" else gap.square()
        return gap.sum() / max(len(gap), 1)

    def targets(
        self, pairs: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return the target similarities C in ascending order, (P,), cached for each P.

        Args:
            pairs: number of pairs P.
            device: device of the result.
            dtype: type of the result, which is computed in float64.

        Example:
            >>> SimilarityCalibration(beta_ab=1).targets(4)
            tensor([-0.7500, -0.2500,  0.2500,  0.7500])
        """
        key = pairs, torch.device(device), dtype
        if key not in self._targets:
            levels = (np.arange(pairs) + 0.5) / max(pairs, 1)
            if self.calibration == "beta":
                values = 2 * special.betaincinv(self.beta_a, self.beta_b, levels) - 1
            else:
                values = (self.std * special.ndtri(levels)).clip(-1, 1)
            if self.clamp:
                values = values.clip(min=0)
            self._targets[key] = torch.from_numpy(values).to(device, dtype)
        return self._targets[key]


def _calibrates(options: Mapping[str, Any]) -> bool:
    """Return whether the reconstruction or the quantization has a weight."""
    return any(options.get(weight, 1.0) for weight in ("reconstruction", "quantization"))


def _check_beta(options: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Check that both or neither of `beta_a` and `beta_b` are set."""
    a, b = options.get("beta_a"), options.get("beta_b")
    if (a is None) == (b is None):
        return []
    key, other = ("beta_a", "beta_b") if b is None else ("beta_b", "beta_a")
    return [(key, f"is set without {other}.", f"Set {other} too, or beta_ab for both.")]


class ContrastiveCalibration(SimilarityCalibration):
    r"""Calibration within each of two views, and a contrastive loss between them.

    .. math:: L = w_r L_r + w_q L_q + w_c \, \mathrm{NTXent}(v_i, v_j; \tau)

    The rows are [view 1 of the batch; view 2 of the batch]. Pairs by position are formed within
    each view: the first quarter of the rows with the second, the third with the fourth. Rows beyond
    four times the length of a quarter are in no pair, but in the other terms.

    Args:
        contrast: w_c, weight of the contrastive loss.
        temperature: tau.
        contrast_on: ``codes``: the codes v, as in the authors' code. ``features``: the backbone's
            features, as in the paper's algorithm; the term is constant if the backbone is frozen.
        reconstruction: this and all following arguments: see `SimilarityCalibration`.
        reconstruction_form: ``l1``, ``l2`` or ``relu``.
        calibration: ``beta`` or ``gaussian``.
        beta_ab: alpha and beta.
        beta_a: alpha alone.
        beta_b: beta alone.
        std: standard deviation of ``gaussian``.
        clamp: whether negative C are set to 0.
        quantization: w_q.
        quantization_form: ``cosine``, ``l1``, ``l2`` or ``l3``.

    Raises:
        ConfigError: only one of `beta_a` and `beta_b` is set, or no term trains the codes.

    Example:
        >>> loss = ContrastiveCalibration(temperature=1.0)
        >>> z = torch.eye(2)  # two images in two equal views
        >>> output = Output.of(torch.cat([z, z]), features=torch.cat([z, z]))
        >>> terms = loss(output, Batch.of(None, num_views=2))
        >>> round(terms["contrast"].item(), 4)  # log(1 + 2 e^-1)
        0.5514
    """

    views: ClassVar[int] = 2

    def __init__(
        self,
        contrast: NonNegative = 1.0,
        temperature: Positive = 0.3,
        contrast_on: Literal["codes", "features"] = "codes",
        reconstruction: NonNegative = 1.0,
        reconstruction_form: Literal["l1", "l2", "relu"] = "l1",
        calibration: Literal["beta", "gaussian"] = "beta",
        beta_ab: Positive = 5.0,
        beta_a: Positive | None = None,
        beta_b: Positive | None = None,
        std: Positive = 0.3,
        clamp: bool = True,
        quantization: NonNegative = 1.0,
        quantization_form: Literal["cosine", "l1", "l2", "l3"] = "cosine",
    ) -> None:
        super().__init__(
            reconstruction,
            reconstruction_form,
            calibration,
            beta_ab,
            beta_a,
            beta_b,
            std,
            clamp,
            quantization,
            quantization_form,
        )
        weights = {"reconstruction": reconstruction, "quantization": quantization}
        raise_first(self.refused({"contrast": contrast, "contrast_on": contrast_on, **weights}))
        self.contrast = contrast
        self.temperature = temperature
        self.contrast_on = contrast_on

    @classmethod
    def refused(cls, options: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """Check the options: return the key, the fault and what to type instead."""
        if not _calibrates(options):
            if not options.get("contrast", 1.0):
                message = "is 0, and so are reconstruction and quantization: no term is left."
                return [("contrast", message, "Set one of the three to a weight above 0.")]
            if options.get("contrast_on", "codes") == "features":
                message = "is features, and no term of the codes has a weight."
                hint = "Set reconstruction or quantization to a weight above 0."
                return [("contrast_on", message, hint)]
        return _check_beta(options)

    def forward(self, output: Output, batch: Batch) -> Terms:
        terms = dict(super().forward(output, batch))
        if self.contrast:
            rows = output.z if self.contrast_on == "codes" else output.require("features")
            terms["contrast"] = self.contrast * nt_xent(rows, self.temperature)
        return terms
