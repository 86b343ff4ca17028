"""The command ``eo-train``."""
