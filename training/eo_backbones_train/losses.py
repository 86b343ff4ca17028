"""The two losses, which differ by a constant and a factor only: ``byol = 2 + 2 * negative_cosine``.

BYOL's is the squared distance of the normalised vectors (Grill et al., equation 2; equation 1 of the paper this project
implements); SimSiam's the negative cosine similarity (Chen & He, equation 1). Adam does not see the factor.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Return the mean of ``-cos(p, z)`` over all vectors, in [-1, 1]; no gradient flows into ``z``.

    Args:
        p: predictions [..., D].
        z: what they should point at [..., D].
    """
    # At least float32: on a CPU autocast would leave it in bf16, which cannot tell losses closer than 0.4 % apart.
    dtype = torch.promote_types(p.dtype, torch.float32)
    return -F.cosine_similarity(p.to(dtype), z.detach().to(dtype), dim=-1).mean()


def squared_distance(p: Tensor, z: Tensor) -> Tensor:
    """Return the mean of ``2 - 2 cos(p, z)`` over all vectors, in [0, 4]; no gradient flows into ``z``."""
    return 2 + 2 * negative_cosine(p, z)
