"""Raster files: opening them, finding bands in them, reading values, and how stored values become physical ones."""
