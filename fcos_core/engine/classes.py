"""Bring the labels of datasets into the order of a detector's classes, see `Detector.category_names`."""

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

from fcos_core.data.labels import class_difference, fewer_note
from fcos_core.errors import InputError
from fcos_core.weights.checkpointer import DetectronCheckpointer, unwrapped

logger = logging.getLogger(__name__)


def label_test_data(model: nn.Module, dataset: Any) -> None:
    """Give `dataset` the labels of a detector; without names its own labels stay.

    A dataset of another kind than `COCODataset` keeps its labels. Raise InputError if its categories are not the
    detector's classes.
    """
    if not hasattr(dataset, "use_labels"):
        return
    names = getattr(unwrapped(model), "category_names", None)
    if names:
        dataset.use_labels(names)
        return
    _check_count(model, dataset)
    if dataset.order_note:
        logger.warning("%s", dataset.order_note)


def label_training_data(checkpointer: DetectronCheckpointer, dataset: Any) -> None:
    """Choose the labels of a training after its weights are read; tell them to the detector and to the checkpoints.

    A resumed run keeps its labels, and so does a class layer to fine-tune, if it has the same classes.
    Raise InputError if a run would be resumed with other classes.
    """
    if not hasattr(dataset, "use_labels"):
        return
    model = unwrapped(checkpointer.model)
    names = getattr(model, "category_names", None)
    if checkpointer.resumed_from and names:
        dataset.use_labels(names, f"the run in '{checkpointer.resumed_from}'")
    elif names:
        _fine_tune(dataset, names)
    elif names is not None and dataset.order_note:
        logger.warning("%s", dataset.order_note)
    model.category_names = tuple(dataset.category_names)
    checkpointer.categories = dataset.category_names


def _fine_tune(dataset: Any, names: Sequence[str]) -> None:
    difference = class_difference(dataset.category_names, names, dataset.fewer_categories)
    if difference:
        logger.warning(
            "The weights are of other classes than the training data: %s. The class layer is trained on to those of "
            "the data, in their order: %s.",
            difference.replace("it ", "the data ", 1),
            ", ".join(map(repr, dataset.category_names)),
        )
    else:
        dataset.use_labels(names)


def _check_count(model: nn.Module, dataset: Any) -> None:
    """Raise InputError if a detector without class names has not as many classes as `dataset` lists."""
    detector = unwrapped(model)
    while hasattr(detector, "detector"):  # of a CompiledDetector or an AugmentedDetector
        detector = detector.detector
    layer = getattr(getattr(getattr(detector, "rpn", None), "head", None), "cls_logits", None)
    classes, listed = getattr(layer, "out_channels", None), len(dataset.category_names)
    if classes is None or not listed or listed == classes:
        return
    if dataset.fewer_categories and listed < classes:
        logger.warning("%s", fewer_note(dataset.ann_file, listed, classes))
        return
    more = "take out those that it does not know" if listed > classes else "add the others"
    advice = "" if listed > classes else ", or set DATASETS.FEWER_CATEGORIES True if it lists fewer on purpose"
    raise InputError(
        f"'{dataset.ann_file}' lists {listed} categories ({', '.join(map(repr, dataset.category_names[:8]))}), but the "
        f"detector has {classes} classes: {more}{advice}."
    )
