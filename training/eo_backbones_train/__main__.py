"""``python -m eo_backbones_train`` and ``torchrun -m eo_backbones_train``: the command eo-train."""

from eo_backbones_train.cli.main import main

main()
