"""Declared names in timm's registry: ``timm.create_model(NAME)`` takes them once this package is imported.

Every family of rows has one entry point, which is ``create_model`` under another name: a model made through timm is the
same, bit for bit, and its weights are verified the same way; timm's own download code is not used for them. timm's own
names, such as ``resnet50``, are left alone.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from timm.models import DefaultCfg, PretrainedCfg, generate_default_cfgs, get_pretrained_cfg, register_model
from torch import nn

from eo_backbones import weights as rows
from eo_backbones.errors import UserError
from eo_backbones.hub.download import row_config
from eo_backbones.models import create_model
from eo_backbones.weights import Weights

default_cfgs: dict[str, DefaultCfg] = {}  # timm reads the name `default_cfgs` of the module that holds the entry points

_SOURCE_FIELDS = ("file", "url", "state_dict", "hf_hub_id", "hf_hub_filename")


def register() -> None:
    """Put the declared rows into timm's registry, in place of those registered before.

    A published row gets a source of weights, so that ``timm.list_models("eo_*", pretrained=True)`` lists it.
    """
    families = rows.families()
    defaults = [rows.default_of_family(family) for family in families]
    default_cfgs.clear()
    default_cfgs.update(
        generate_default_cfgs(  # timm marks the default tag of a name with a star
            {f"{row.name}{'*' if row in defaults else ''}": _description(row) for row in rows.WEIGHTS.values()}
        )
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Overwriting eo_\w+ in registry")  # that is meant
        for family in families:
            register_model(_entry_point(family))


def _entry_point(family: str) -> Callable[..., nn.Module]:
    """Return the function that timm calls for a family's name; timm registers it under its ``__name__``."""

    def create(
        pretrained: bool = False,
        pretrained_cfg: str | Mapping[str, Any] | PretrainedCfg | None = None,
        **kwargs: Any,
    ) -> nn.Module:
        """Encoder for one band of any sensor. Tags: the rows of ``eo_backbones.list_models()``.

        Args:
            pretrained: load the row's weights.
            pretrained_cfg: as timm passes it: the tag, or the registered description of a row.
            **kwargs: see :func:`eo_backbones.create_model`.
        """
        return create_model(f"{family}.{_tag(family, pretrained_cfg)}", pretrained, **kwargs)

    create.__name__ = create.__qualname__ = family
    return create


def _tag(family: str, cfg: str | Mapping[str, Any] | PretrainedCfg | None) -> str:
    """Return the row's tag from what timm passes for one."""
    default = rows.default_of_family(family).tag
    if cfg is None or isinstance(cfg, str):
        return cfg or default
    # timm's scripts resolve the description first and pass it on whole
    given = asdict(cfg) if isinstance(cfg, PretrainedCfg) else dict(cfg)
    tag = given.get("tag") or default
    registered = asdict(get_pretrained_cfg(f"{family}.{tag}") or PretrainedCfg())
    if any(given.get(key) != registered[key] for key in _SOURCE_FIELDS):
        raise UserError(
            f"this pretrained_cfg names weights other than those of {family}.{tag}; load them with "
            f"eo_backbones.create_model('local-dir:PATH') or under a name of timm's own"
        )
    return str(tag)


def _description(row: Weights) -> dict[str, Any]:
    fields = dict(row_config(row).pretrained_cfg)
    if row.published and row.embedded_path is not None:
        fields["file"] = str(row.embedded_path)
    elif row.published:
        fields["hf_hub_id"] = f"{row.repo_id}@{row.revision}"
    return fields


register()
