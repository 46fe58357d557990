"""Files on disk: atomic, checked, locked."""
