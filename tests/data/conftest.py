"""Make small datasets in COCO format with random images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fcos_core.config import Config, cfg

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the folder `shared` with real images and published numbers is not beside this checkout")
    return SHARED


@pytest.fixture
def make_files(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """Return a function that writes a tree as an annotation file with random images: (img_dir, ann_file)."""

    def make(tree: Any, name: str = "a") -> tuple[str, str]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        rng = np.random.default_rng(0)
        for image in tree["images"]:
            pixels = rng.integers(0, 256, (image["height"], image["width"], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / image["file_name"])
        ann_file = tmp_path / f"{name}.json"
        ann_file.write_text(json.dumps(tree), encoding="utf-8")
        return str(folder), str(ann_file)

    return make


@pytest.fixture
def make_cfg(make_files: Callable[..., tuple[str, str]]) -> Callable[..., Config]:
    """Return a function from {dataset name: tree} to a config with small sizes, two classes and no workers."""

    def make(trees: dict[str, Any], *overrides: Any) -> Config:
        config = cfg.clone()
        for name, tree in trees.items():
            img_dir, ann_file = make_files(tree, name)
            key = f"DATASETS.CATALOG.{name}"
            config.merge_from_list([f"{key}.img_dir", img_dir, f"{key}.ann_file", ann_file])
        names = tuple(trees)
        config.merge_from_list(["DATASETS.TRAIN", names, "DATASETS.TEST", names, "MODEL.FCOS.NUM_CLASSES", 2])
        config.merge_from_list(["INPUT.MIN_SIZE_TRAIN", (32, 40), "INPUT.MAX_SIZE_TRAIN", 64])
        config.merge_from_list(["INPUT.MIN_SIZE_TEST", 32, "INPUT.MAX_SIZE_TEST", 64])
        config.merge_from_list(["DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.MAX_ITER", 6])
        config.merge_from_list(list(overrides))
        return config

    return make
