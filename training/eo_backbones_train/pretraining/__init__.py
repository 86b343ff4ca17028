"""A pretraining run: the loop, and what keeps it safe, watched and resumable. Entry: :func:`loop.train`."""
