"""Datasets in the formats of other tools, as COCO files.

supervision reads Pascal VOC and YOLO too. It stops at the first bad file, does not see objects marked as difficult,
image sets and sizes that disagree, and keeps boxes as float32: here a bad file is named with its line and left out.
"""
