"""From GeoTIFF pairs to a store: layouts, units, reading, coding, writing. Entry: :func:`prepare.prepare`."""
