"""A frozen encoder to measure with while none is published: random weights, one network, as a folder like any other."""

import json
from pathlib import Path

from eo_backbones.contract import unit_range
from eo_backbones.evaluation.encoders import random_resnet50
from eo_backbones.hub import folder


def write_stand_in(path: Path) -> str:
    """Write the folder and return the name to pass to ``--models``."""
    path.mkdir(parents=True, exist_ok=True)
    folder.save_weights(random_resnet50(0).state_dict(), path / folder.WEIGHTS_FILE, {})
    (path / folder.CONFIG_FILE).write_text(json.dumps(folder.config_json(input=unit_range())))
    return f"local-dir:{path}"
