"""How fast the detector is, beside what people would use instead; tools/benchmark.py prints it.

Every measure is a function of `Settings` that gives one or more `Table`s. Nothing else in the package imports this
one.
"""
