"""What changes the result of a training, as frozen values."""
