"""From the store to batches of two views."""
