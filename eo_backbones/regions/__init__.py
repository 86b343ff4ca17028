"""Embeddings of many scenes: a folder that holds one embedding for each of them, made with the same settings.

Needs rasterio; ``import eo_backbones`` does not load this package.
"""
