"""Measure the speed and memory of the detector beside its alternatives; tools/benchmark.py prints the tables.

Every measure is a function from `Settings` to one or more `Table`s.
"""
