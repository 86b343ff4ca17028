"""Raster files: opening them, finding bands in them, reading values."""
