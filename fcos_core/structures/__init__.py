"""Plain data: boxes with fields, and batches of images."""
