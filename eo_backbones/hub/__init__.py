"""From a name to a verified file: local folders, the Hub, and what may go wrong there."""
