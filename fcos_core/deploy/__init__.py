"""Tools that make a trained detector run faster."""
