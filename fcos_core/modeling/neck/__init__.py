"""Necks: feature pyramids on the outputs of a body."""
