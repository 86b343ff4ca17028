"""A row of results.csv to vary."""

from dataclasses import replace

from eo_backbones.results import Result, versions


def result(**changes: object) -> Result:
    """A plausible row with some fields changed."""
    row = Result(
        model="random",
        dataset="eurosat-rgb",
        band="B04",
        protocol="logistic",
        split="seeded",
        fraction="1",
        size=64,
        input_scaling="contract",
        seed=0,
        n_train=80,
        n_test=20,
        f1_weighted=0.5,
        accuracy=0.55,
        f1_low=0.4,
        f1_high=0.6,
        weights_digest="w" * 64,
        data_digest="d",
        versions=versions("float32 on cpu"),
    )
    return replace(row, **changes)  # type: ignore[arg-type]
