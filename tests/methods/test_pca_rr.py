"""PCA with a random rotation; see also ``test_closed_form``."""

import torch
from torch import nn

from deephash.methods.itq import ITQ
from deephash.methods.pca_rr import PCARR
from deephash.models.encoder import Encoder
from deephash.models.heads import Linear
from deephash.models.projections import components, principal_axes, random_rotation


def fitted_encoder(method_type, features, nbit, seed, **options):
    encoder = Encoder(nn.Identity(), Linear(features.shape[1], nbit, bias=True))
    method_type(encoder, nbit, len(features), seed, **options).fit(features)
    return encoder


def test_pca_rr_is_itq_without_iterations():
    x = torch.randn(60, 12, generator=torch.manual_seed(0)) + 1
    pca_rr, itq = fitted_encoder(PCARR, x, 6, 3), fitted_encoder(ITQ, x, 6, 3, iterations=0)
    assert all(map(torch.equal, pca_rr.state_dict().values(), itq.state_dict().values()))
    other_seed = fitted_encoder(PCARR, x, 6, 4)
    assert not torch.equal(pca_rr.head.linear.weight, other_seed.head.linear.weight)


def test_codes_are_rotated_components():
    x = torch.randn(60, 12, generator=torch.manual_seed(0)) + 1
    with torch.no_grad():
        codes = fitted_encoder(PCARR, x, 6, 3).encode(x)
    v = components(x, *principal_axes(x, 6))
    expected = v @ random_rotation(6, 3)
    torch.testing.assert_close(codes.double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(codes.double().norm(dim=1), v.norm(dim=1))  # norms are preserved
