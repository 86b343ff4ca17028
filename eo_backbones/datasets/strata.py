"""Groups by which images with several labels are split, so that rare labels reach every part."""

import numpy as np

SMALLEST_GROUP = 3  # one image for each of training, validation and test


def strata_of(labels: np.ndarray) -> np.ndarray:
    """Return a group for each image, int64 ``(n,)``: its rarest label, as far as groups are not too small.

    Labels are served from the rarest to the commonest: one takes all images that have it and are still free, if these
    are at least :data:`SMALLEST_GROUP`. Images that are left form one group more, or join the largest if they are too
    few.

    Args:
        labels: bool ``(n, labels)``.
    """
    strata = np.full(len(labels), -1, dtype=np.int64)
    for label in np.argsort(labels.sum(axis=0), kind="stable"):
        free = labels[:, label] & (strata < 0)
        if free.sum() >= SMALLEST_GROUP:
            strata[free] = label
    left = strata < 0
    if left.any():
        groups, sizes = np.unique(strata[~left], return_counts=True)
        few = left.sum() < SMALLEST_GROUP and len(groups) > 0
        strata[left] = groups[sizes.argmax()] if few else labels.shape[1]
    return strata
