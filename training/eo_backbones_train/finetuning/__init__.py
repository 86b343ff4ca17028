"""``eo-train finetune``: from labelled images of the user's own to a classifier that everybody can load."""
