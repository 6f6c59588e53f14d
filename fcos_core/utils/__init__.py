"""Process groups, logging, metrics, files and the environment report."""
