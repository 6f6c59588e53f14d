"""Colours of curves and reports."""

# People who do not see red or green apart can tell these from each other (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
