"""How far real-valued codes are from -1 and +1."""

import math
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Form = Literal["l1", "l2", "log_cosh"]


def quantization(code: Tensor, form: Form) -> Tensor:
    """The distance of ``|code|`` from 1, entry by entry, in one of the papers' forms.

    ``l1``: its modulus (DSH, IDHN). ``l2``: its square; the same as ``(code - sign(code)) ** 2``
    (DTSH, DPSH, CSQ). ``log_cosh``: a smooth modulus, log cosh x = |x| + log(1 + e^(-2|x|)) - log 2
    (DHN, HashNet's forerunner).
    """
    gap = (code.abs() - 1).abs()
    if form == "l1":
        return gap
    if form == "l2":
        return gap**2
    return gap + F.softplus(-2 * gap) - math.log(2)
