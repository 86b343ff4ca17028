"""From codes to what the model sees: six numbers per tile.

A coding says ``native = q0 + q1 c + q2 c ** 2``; the input contract says clip, then ``(native - mean) / std``. Both
together are one quadratic and one clamp, which the GPU applies while it makes the views.
"""

import numpy as np

from eo_backbones.contract import InputSpec
from eo_backbones_train.codings import Array
from eo_backbones_train.store import Store

COLUMNS = ("q0", "q1", "q2", "low", "high", "missing")
"""Model input = ``clamp(q0 + q1 c + q2 c ** 2, low, high)``; where ``c == 0`` it is ``missing``, unless that is NaN."""


def decode_table(store: Store, contract: InputSpec) -> Array:
    """Return the coefficients of every band of every group.

    A missing value becomes the low end of the clip range, in both sensors: SEN12MS users set missing backscatter to -25
    dB (schmitt-muc/SEN12MS ``classification/dataset.py``), and missing reflectance is 0 in the files.

    Args:
        store: the store.
        contract: a contract that normalises by ``"band"``.

    Returns:
        float32 ``(groups, most bands, 6)``, columns as :data:`COLUMNS`; NaN for bands that the contract lacks.
    """
    assert contract.normalization == "band"
    table = np.full((len(store.groups), max(len(group.bands) for group in store.groups), len(COLUMNS)), np.nan)
    for rows, group in zip(table, store.groups, strict=True):
        for row, name, coding in zip(rows, group.bands, group.codings, strict=False):
            if name not in contract.band_names:
                continue
            entry = contract.for_band(name)
            q0, q1, q2 = coding.coefficients(entry.display)
            low, high = ((bound - entry.mean) / entry.std for bound in entry.clip)
            row[:] = (
                (q0 - entry.mean) / entry.std,
                q1 / entry.std,
                q2 / entry.std,
                low,
                high,
                low if coding.has_missing else np.nan,
            )
    return table.astype(np.float32)
