"""``eo-train bench``: how fast this machine loads, augments and trains, beside references measured in the same run."""
