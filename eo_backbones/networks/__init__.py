"""Networks around an encoder: several bands, segmentation, initial values."""
