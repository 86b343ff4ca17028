"""The declared names in timm's registry: ``timm.create_model("eo_resnet50.byol_s1s2_mini")`` after ``import eo_backbones``.

The entry point is ``create_model`` under another name, so a model made through timm is the same, bit for bit, and its
weights are verified the same way; timm's own download code is not used for them. The stock name ``resnet50`` is left
alone.
"""

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from timm.models import DefaultCfg, PretrainedCfg, generate_default_cfgs, get_pretrained_cfg, register_model
from torch import nn

from eo_backbones import weights as rows
from eo_backbones.errors import UserError
from eo_backbones.hub.download import row_config
from eo_backbones.models import create_model
from eo_backbones.weights import Weights

__all__ = ["eo_resnet50", "register"]

default_cfgs: dict[str, DefaultCfg] = {}  # timm reads the name `default_cfgs` of the module that holds the entry point

_SOURCE_FIELDS = ("file", "url", "state_dict", "hf_hub_id", "hf_hub_filename")


def eo_resnet50(
    pretrained: bool = False,
    pretrained_cfg: str | Mapping[str, Any] | PretrainedCfg | None = None,
    **kwargs: Any,
) -> nn.Module:
    """ResNet-50 for one band of any sensor. Tags: the rows of ``eo_backbones.list_models()``.

    Args:
        pretrained: load the row's weights.
        pretrained_cfg: as timm passes it: the tag, or the registered description of a row.
        **kwargs: see :func:`eo_backbones.create_model`.
    """
    return create_model(f"{rows.ARCHITECTURE}.{_tag(pretrained_cfg)}", pretrained, **kwargs)


def _tag(cfg: str | Mapping[str, Any] | PretrainedCfg | None) -> str:
    """Return the row's tag from what timm passes for one."""
    if cfg is None or isinstance(cfg, str):
        return cfg or rows.DEFAULT.tag
    # timm's scripts resolve the description first and pass it on whole
    given = asdict(cfg) if isinstance(cfg, PretrainedCfg) else dict(cfg)
    tag = given.get("tag") or rows.DEFAULT.tag
    registered = asdict(get_pretrained_cfg(f"{rows.ARCHITECTURE}.{tag}") or PretrainedCfg())
    if any(given.get(key) != registered[key] for key in _SOURCE_FIELDS):
        raise UserError(
            f"this pretrained_cfg names other weights than {rows.ARCHITECTURE}.{tag} has; load them with "
            f"eo_backbones.create_model('local-dir:PATH') or timm's stock resnet50"
        )
    return str(tag)


def register(declared: Mapping[str, Weights], default: Weights) -> None:
    """Put rows into timm's registry, in place of those registered before.

    A published row gets a source of weights, so that ``timm.list_models("eo_*", pretrained=True)`` lists it.
    """
    default_cfgs.clear()
    default_cfgs.update(
        generate_default_cfgs(
            {f"{row.name}{'*' if row is default else ''}": _description(row) for row in declared.values()}
        )
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f"Overwriting {rows.ARCHITECTURE} in registry")  # that is meant
        register_model(eo_resnet50)


def _description(row: Weights) -> dict[str, Any]:
    fields = dict(row_config(row).pretrained_cfg)
    if row.published and row.embedded_path is not None:
        fields["file"] = str(row.embedded_path)
    elif row.published:
        fields["hf_hub_id"] = f"{row.repo_id}@{row.revision}"
    return fields


register(rows.WEIGHTS, rows.DEFAULT)
