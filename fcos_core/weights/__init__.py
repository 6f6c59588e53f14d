"""Weight files: reading, renaming, matching with a model, downloading, and training states."""
