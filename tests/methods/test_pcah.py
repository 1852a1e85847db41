"""PCA hashing: an example by hand and a naive computation; see also ``test_closed_form``."""

import numpy as np
import torch
from torch import nn

from deephash.methods.pcah import PCAH
from deephash.models.encoder import Encoder
from deephash.models.heads import Linear


def fitted_codes(features, nbit):
    encoder = Encoder(nn.Identity(), Linear(features.shape[1], nbit, bias=True))
    PCAH(encoder, nbit, len(features)).fit(features)
    with torch.no_grad():
        return encoder.encode(features)


def test_codes_by_hand():
    """The mean is (3, 3); the first axis is along (1, 1), the second along (1, -1)."""
    x = torch.tensor([[5.0, 5], [1, 1], [3.5, 2.5], [2.5, 3.5]])
    codes = fitted_codes(x, 2)
    expected = 2**0.5 * torch.tensor([[2.0, 0], [-2, 0], [0, 0.5], [0, -0.5]])
    torch.testing.assert_close(codes.abs(), expected.abs(), rtol=0, atol=1e-6)
    assert codes[0, 0] > 0 and codes[2, 1] * codes[3, 1] < 0


def test_codes_match_naive_computation():
    """Compared with numpy's eigenvectors of the covariance in float64, up to signs of axes."""
    x = torch.randn(60, 10, generator=torch.manual_seed(0)) @ torch.diag(torch.arange(1.0, 11)) + 2
    values = x.double().numpy()
    values = values - values.mean(axis=0)
    variances, axes = np.linalg.eigh(values.T @ values / 60)
    expected = torch.from_numpy(values @ axes[:, np.argsort(-variances)[:5]])
    codes = fitted_codes(x, 5).double()
    torch.testing.assert_close(codes.abs(), expected.abs(), rtol=0, atol=1e-4)
    assert torch.equal((codes * expected).sum(dim=0).sign().abs(), torch.ones(5).double())
