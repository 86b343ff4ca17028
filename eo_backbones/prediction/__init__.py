"""Predictions of fine-tuned models on new images: classes of images, masks of images of any size."""
