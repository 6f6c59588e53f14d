"""Layouts of published models: the keys and shapes of their state dicts."""

from pathlib import Path

import pytest
import torch

LAYOUTS = Path(__file__).resolve().parents[2].parent / "shared" / "parity" / "layouts"
IMPORTS = LAYOUTS.parent / "imports"
needs_layouts = pytest.mark.skipif(not LAYOUTS.is_dir(), reason="the layouts of released models are not here")


def layout(name, folder=LAYOUTS):
    """Return key to shape of a released model."""
    rows = (line.split() for line in (folder / f"{name}.txt").read_text().splitlines())
    return {key: () if shape == "scalar" else tuple(map(int, shape.split("x"))) for key, shape in rows}


def zeros(shapes):
    """Make tensors of these shapes that store one number each, which keeps the large layouts fast."""
    return {key: torch.zeros(1).expand(shape) if shape else torch.zeros(()) for key, shape in shapes.items()}
