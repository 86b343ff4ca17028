"""Networks around an encoder: several bands, segmentation, initial values, digest and BatchNorm statistics."""
