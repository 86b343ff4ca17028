"""From a model name to verified files: local folders, the Hub and its errors."""
