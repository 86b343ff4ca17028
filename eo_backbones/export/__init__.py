"""A model as one file for other runtimes.

* :func:`export` writes a model by name, :func:`export_network` a network in memory.
"""

from eo_backbones.export.write import METADATA_KEY, Exported, Format, export, export_network

__all__ = ["METADATA_KEY", "Exported", "Format", "export", "export_network"]
