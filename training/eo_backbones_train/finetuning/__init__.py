"""``eo-train finetune``: from a user's labelled images to a classifier or segmentation network that loads anywhere."""
