"""The command ``eo-backbones``."""
