"""What ../shared/parity holds: deterministic weights and inputs, and the numbers that other implementations compute."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

PARITY = Path(__file__).resolve().parents[2].parent / "shared" / "parity"
needs_parity = pytest.mark.skipif(not PARITY.is_dir(), reason="the goldens of ../shared/parity are not here")


def load_fill() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fill", PARITY / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_samples(levels, golden, seed, count):
    """Compare `count` elements of each level (N, C, H, W) with those that the golden lists, within 1e-5."""
    assert [list(level.shape) for level in levels] == [level["shape"] for level in golden]
    for level, expected in zip(levels, golden, strict=True):
        index = np.random.RandomState(seed).randint(0, level.numel(), count)
        np.testing.assert_allclose(level.flatten()[index], expected["sample"], rtol=1e-5)
