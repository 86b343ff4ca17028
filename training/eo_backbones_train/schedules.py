"""Learning rate and moving-average decay as pure functions of the step number.

``step`` counts from 0; the value returned is the one that this step uses.
"""

import math
from typing import Literal

Schedule = Literal["constant", "cosine"]


def learning_rate(step: int, *, peak: float, schedule: Schedule, total_steps: int, warmup_steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, then constant or half a cosine down to 0.

    As in BYOL (Grill et al., arXiv 2006.07733, section 3.2) and SimSiam, but the warm-up counts from 1, so that the
    first step is not lost to a rate of 0. If training is shorter than the warm-up, the peak is never reached.

    Args:
        step: 0 to ``total_steps`` - 1.
        peak: the rate at the end of the warm-up.
        schedule: what follows the warm-up.
        total_steps: steps of the whole training, warm-up included.
        warmup_steps: steps of the warm-up; 0 for none.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))


def target_decay(step: int, *, base: float, schedule: Schedule, total_steps: int) -> float:
    """Return the decay of BYOL's moving average after a step.

    ``"cosine"`` is ``1 - (1 - base) * (cos(pi * k / K) + 1) / 2`` (BYOL, section 3.2): ``base`` at k = 0, 1 at k = K.

    Args:
        step: k, 0 to ``total_steps``.
        base: the decay at the start.
        schedule: ``"constant"`` keeps ``base``.
        total_steps: K.
    """
    if schedule == "constant":
        return base
    return 1 - (1 - base) * (math.cos(math.pi * step / total_steps) + 1) / 2
