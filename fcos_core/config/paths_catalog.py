"""Look up datasets and pretrained weights by name."""

import difflib
import os
from collections.abc import Mapping
from typing import Any

from fcos_core.errors import InputError
from fcos_core.utils.python_file import run_python_file

# Name to (image folder, annotation file), relative to DATASETS.DATA_DIR.
COCO_DATASETS = {
    "coco_2014_train": ("coco/train2014", "coco/annotations/instances_train2014.json"),
    "coco_2014_val": ("coco/val2014", "coco/annotations/instances_val2014.json"),
    "coco_2014_minival": ("coco/val2014", "coco/annotations/instances_minival2014.json"),
    "coco_2014_valminusminival": ("coco/val2014", "coco/annotations/instances_valminusminival2014.json"),
    "coco_2017_train": ("coco/train2017", "coco/annotations/instances_train2017.json"),
    "coco_2017_val": ("coco/val2017", "coco/annotations/instances_val2017.json"),
    "coco_2017_test_dev": ("coco/test2017", "coco/annotations/image_info_test-dev2017.json"),
}

# Name after catalog:// to URL.
_DETECTRON = "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained"
WEIGHTS = {
    "ImageNetPretrained/MSRA/R-50": f"{_DETECTRON}/MSRA/R-50.pkl",
    "ImageNetPretrained/MSRA/R-101": f"{_DETECTRON}/MSRA/R-101.pkl",
    "ImageNetPretrained/FAIR/20171220/X-101-32x8d": f"{_DETECTRON}/20171220/X-101-32x8d.pkl",
    "ImageNetPretrained/FAIR/20171220/X-101-64x4d": f"{_DETECTRON}/20171220/X-101-64x4d.pkl",
}


class DatasetCatalog:
    """Published form of `COCO_DATASETS`; a script may add to DATASETS or set DATA_DIR before it makes its loaders."""

    # Stands for DATASETS.DATA_DIR where a config has the default.
    DATA_DIR = "datasets"
    DATASETS = {name: {"img_dir": images, "ann_file": file} for name, (images, file) in COCO_DATASETS.items()}

    @staticmethod
    def get(name: str) -> dict[str, Any]:
        """Return {"factory": "COCODataset", "args": {"root": folder, "ann_file": file}}; InputError if unknown."""
        root, ann_file = dataset_paths(name, DatasetCatalog.DATA_DIR, {})
        return {"factory": "COCODataset", "args": {"root": root, "ann_file": ann_file}}


class ModelCatalog:
    """Published form of `WEIGHTS`."""

    @staticmethod
    def get(name: str) -> str:
        """Return the URL of the weights `name`, without catalog://; raise InputError if it is unknown."""
        return weights_url(name)


def dataset_paths(name: str, data_dir: str, own: Mapping[str, Mapping[str, str]]) -> tuple[str, str]:
    """Return the image folder and the annotation file of the dataset `name`.

    Args:
        name: a key of `own` or of `DatasetCatalog.DATASETS`; `own` takes precedence.
        data_dir: folder that relative paths start from (DATASETS.DATA_DIR).
        own: the user's datasets (DATASETS.CATALOG), name to {img_dir, ann_file}.

    Raises:
        InputError: the name is unknown, or an entry of `own` has other keys than img_dir and ann_file.
    """
    known: dict[str, Any] = {**DatasetCatalog.DATASETS, **own}
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
        raise InputError(
            f"Unknown dataset '{name}'; the nearest known name is '{near}'. Declare a dataset of your own under "
            "DATASETS.CATALOG in the YAML file, with img_dir and ann_file."
        )
    entry = known[name]
    if not isinstance(entry, Mapping) or set(entry) != {"img_dir", "ann_file"}:
        raise InputError(
            f"DATASETS.CATALOG.{name} must be a section with the keys img_dir and ann_file; it is {entry!r}."
        )
    if data_dir == "datasets":
        data_dir = DatasetCatalog.DATA_DIR
    # A script may have put plain dictionaries into DATASETS.CATALOG, which expand no ~.
    paths = [os.path.expanduser(str(entry[key])) for key in ("img_dir", "ann_file")]
    img_dir, ann_file = (os.path.join(os.path.expanduser(data_dir), path) for path in paths)
    return img_dir, ann_file


def weights_url(name: str) -> str:
    """Return the URL of the weights `name`, written with or without catalog://.

    Raises:
        InputError: the name is unknown.
    """
    name = name.removeprefix("catalog://")
    if name not in WEIGHTS:
        raise InputError(f"Unknown weights 'catalog://{name}'; known names are: {', '.join(WEIGHTS)}.")
    return WEIGHTS[name]


def weights_source(source: str, paths_catalog: str) -> str:
    """Return the URL or path that the user's ModelCatalog gives for catalog://NAME; return other sources unchanged.

    Args:
        source: as MODEL.WEIGHT has it.
        paths_catalog: PATHS_CATALOG; a file without ModelCatalog leaves the names to `weights_url`.

    Raises:
        InputError: the catalog has no such name.
    """
    if not paths_catalog or not source.startswith("catalog://"):
        return source
    catalog = getattr(run_python_file("fcos_core.user_paths_catalog", paths_catalog), "ModelCatalog", None)
    if catalog is None:
        return source
    name = source.removeprefix("catalog://")
    try:
        return str(catalog.get(name))
    # A catalog is the user's code: for a name that it lacks it raises what its author chose.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"ModelCatalog of PATHS_CATALOG '{paths_catalog}' has no weights '{name}' ({reason})."
        ) from error
