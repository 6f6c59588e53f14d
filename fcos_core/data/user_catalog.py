"""Find the files or the class of a dataset by its name, in the config or in a user's own catalog."""

import inspect
from typing import Any

from fcos_core.config import Config
from fcos_core.config.paths_catalog import dataset_paths
from fcos_core.data.image_file import UnreadableImageError
from fcos_core.data.own_dataset import OwnDataset
from fcos_core.errors import InputError
from fcos_core.utils.python_file import run_python_file


def make_source(cfg: Config, name: str) -> tuple[str, str] | OwnDataset:
    """Return the image folder and the annotation file of the dataset `name`, or the dataset if its class is the user's.

    DATASETS.CATALOG comes first, then the file PATHS_CATALOG if there is one, else the project's own catalog.

    Raises:
        InputError: see `dataset_paths`, `catalog_entry` and `OwnDataset`; an item of a user's dataset is read, so that
            faults show before the run.
    """
    if not cfg.PATHS_CATALOG or name in cfg.DATASETS.CATALOG:
        return dataset_paths(name, cfg.DATASETS.DATA_DIR, cfg.DATASETS.CATALOG)
    factory, arguments = catalog_entry(cfg.PATHS_CATALOG, name)
    if factory == "COCODataset":
        return arguments["root"], arguments["ann_file"]
    if "transforms" in inspect.signature(factory).parameters:
        arguments = {"transforms": None, **arguments}
    dataset = OwnDataset(factory(**arguments), cfg.MODEL.FCOS.NUM_CLASSES or None, cfg.DATASETS.FEWER_CATEGORIES)
    try:
        dataset[0]
    except UnreadableImageError:
        if not cfg.DATALOADER.SKIP_UNREADABLE:
            raise
    return dataset


def catalog_entry(paths_catalog: str, name: str) -> tuple[Any, dict[str, Any]]:
    """Return the factory, a name or a callable, and the arguments of the dataset `name` in a user's catalog.

    Args:
        paths_catalog: PATHS_CATALOG, a Python file with a class DatasetCatalog; the file is run.
        name: given to `DatasetCatalog.get`, which returns {"factory": ..., "args": {...}}.

    Raises:
        InputError: the file or the class is missing, or gives something else.
    """
    module = run_python_file("fcos_core.user_paths_catalog", paths_catalog)
    catalog = getattr(module, "DatasetCatalog", None)
    try:
        entry = catalog.get(name)  # type: ignore[union-attr]
        factory, arguments = entry["factory"], dict(entry["args"])
        if factory == "COCODataset":
            arguments = {key: str(arguments[key]) for key in ("root", "ann_file")}
    # A catalog is the user's code: for a name that it lacks it raises what its author chose.
    except Exception as error:
        raise InputError(
            f"PATHS_CATALOG '{paths_catalog}' gives no dataset '{name}' ({type(error).__name__}: {error}): its class "
            'DatasetCatalog needs get(name) -> {"factory": class, "args": {...}}.'
        ) from error
    if isinstance(factory, str) and factory != "COCODataset":
        factory = getattr(module, factory, None) or _registered(factory, paths_catalog)
    return factory, arguments


def _registered(factory: str, paths_catalog: str) -> Any:
    """Return a class that a script has put into `fcos_core.data.datasets`, the published place."""
    import fcos_core.data.datasets as datasets  # type: ignore[import-not-found]

    if not hasattr(datasets, factory):
        raise InputError(
            f"PATHS_CATALOG '{paths_catalog}' names the factory '{factory}', which is neither in this file nor in "
            "fcos_core.data.datasets: define the class in the file, or give the class itself."
        )
    return getattr(datasets, factory)
