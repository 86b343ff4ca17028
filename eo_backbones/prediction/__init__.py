"""Masks of images of any size by a fine-tuned segmentation network: ``eo-backbones predict FILES... --out MASKS``."""

from eo_backbones.prediction.segment import Segmented, segment, write_table

__all__ = ["Segmented", "segment", "write_table"]
