"""Facts about a model as lines for a terminal."""

import json
from collections.abc import Mapping
from typing import Any


def fact_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return one line for each fact, and one for each figure of ``results``."""
    lines = []
    for key, value in facts.items():
        if key == "results":
            lines += [f"{key}: {_figure(score)}" for score in value] or [f"{key}: none yet"]
        else:
            lines.append(f"{key}: {json.dumps(value) if isinstance(value, dict | list | tuple) else value}")
    return lines


def _figure(score: Mapping[str, Any]) -> str:
    return (
        "{dataset} {band}, {protocol}, fraction {fraction}: weighted F1 {f1:.3f} [{f1_low:.3f}, {f1_high:.3f}], "
        "{n_train} training and {n_test} test images, split {split}, {size} px, seeds: {seeds}"
    ).format_map(score)
