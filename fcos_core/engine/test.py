"""Test a trained detector on every dataset of DATASETS.TEST."""

import logging
import os
from typing import Any

from torch import nn

from fcos_core.config import Config
from fcos_core.config.checks import check_values
from fcos_core.config.paths_catalog import weights_source
from fcos_core.data import make_data_loader
from fcos_core.data.category_names import training_names
from fcos_core.data.loader import BatchLoader
from fcos_core.engine.classes import label_test_data
from fcos_core.engine.inference import inference
from fcos_core.engine.test_time_augmentation import make_tested_detector
from fcos_core.errors import InputError
from fcos_core.evaluation import check_evaluator
from fcos_core.evaluation.coco import LABEL_NAMES
from fcos_core.evaluation.report import REPORT, THRESHOLDS
from fcos_core.modeling.detector import build_detection_model
from fcos_core.utils import comm
from fcos_core.utils.files import check_writable
from fcos_core.utils.process_group import check_device
from fcos_core.weights.checkpoint_meta import read_meta
from fcos_core.weights.checkpointer import unwrapped
from fcos_core.weights.importing import import_weights
from fcos_core.weights.state_dict_file import find_weights, load_averaged_state_dict_file, load_state_dict_file
from fcos_core.weights.untrained import check_trained
from fcos_core.weights.weight_matching import WeightMatching, load_matching_weights, unusable_sentence

# Folder in OUTPUT_DIR; each dataset has a folder of its own in it.
RESULTS = "inference"

logger = logging.getLogger(__name__)


def test_data_loaders(cfg: Config) -> dict[str, BatchLoader]:
    """Make a loader for each dataset of DATASETS.TEST, by name.

    Raise InputError if a dataset or TEST.EVALUATOR cannot be used, or the results could not be written.
    """
    check_evaluator(cfg.TEST.EVALUATOR)
    if comm.is_main_process():
        for name in cfg.DATASETS.TEST:
            names = ("bbox.json", LABEL_NAMES, "coco_results.json", THRESHOLDS, REPORT)
            check_writable(_results_folder(cfg, name), "OUTPUT_DIR", *names)
    loaders = make_data_loader(cfg, is_train=False, is_distributed=comm.get_world_size() > 1)
    return dict(zip(cfg.DATASETS.TEST, loaders, strict=True))


def test(
    cfg: Config, data_loaders: dict[str, BatchLoader], model: nn.Module | None = None, final: bool = True
) -> dict[str, dict[str, Any] | None]:
    """Test a detector on every dataset; return dataset name to metrics, as `inference` returns them.

    Args:
        cfg: the whole config.
        data_loaders: as `test_data_loaders` makes them.
        model: a detector on MODEL.DEVICE, which TEST.COMPILE does not apply to, but TEST.BBOX_AUG does; None: load
            MODEL.WEIGHT.
        final: compare the metrics with TEST.EXPECTED_RESULTS, and raise InputError if they differ; and write a report,
            if TEST.REPORT is set.
    """
    if model is None:
        model = load_detector(cfg)
    else:
        check_trained(unwrapped(model))
        model = make_tested_detector(cfg, model)
    # An error in the second should not wait for the test of the first, which `inference` checks at once.
    for data_loader in list(data_loaders.values())[1:]:
        label_test_data(model, data_loader.dataset)
    results = {}
    for name, data_loader in data_loaders.items():
        results[name] = inference(
            model,
            data_loader,
            dataset_name=name,
            device=cfg.MODEL.DEVICE,
            expected_results=cfg.TEST.EXPECTED_RESULTS if final else (),
            expected_results_sigma_tol=cfg.TEST.EXPECTED_RESULTS_SIGMA_TOL,
            output_folder=_results_folder(cfg, name),
            evaluator=cfg.TEST.EVALUATOR,
            detections_per_img=cfg.TEST.DETECTIONS_PER_IMG,
            report=cfg.TEST.REPORT and final,
        )
        comm.synchronize()
    return results


def _results_folder(cfg: Config, dataset_name: str) -> str:
    return os.path.join(cfg.OUTPUT_DIR, RESULTS, dataset_name)


def load_detector(cfg: Config) -> nn.Module:
    """Build the detector on MODEL.DEVICE in evaluation mode and load MODEL.WEIGHT; compile it if TEST.COMPILE is set.

    With TEST.BBOX_AUG the result is an `AugmentedDetector`.

    Raise InputError if a value of the config, the device or the weights file cannot be used, or the file does not
    hold the whole detector in finite numbers.
    """
    check_values(cfg)
    check_device(cfg.MODEL.DEVICE)
    if not cfg.MODEL.WEIGHT:
        raise InputError("Testing needs weights: name a file in MODEL.WEIGHT.")
    model = build_detection_model(cfg).to(cfg.MODEL.DEVICE).eval()
    load = load_averaged_state_dict_file if cfg.TEST.USE_EMA else load_state_dict_file
    path = find_weights(weights_source(cfg.MODEL.WEIGHT, cfg.PATHS_CATALOG))
    loaded, meta = load(path), read_meta(path)
    state = import_weights(model, loaded, cfg.MODEL.WEIGHT, meta, cfg, logger)
    matching = load_matching_weights(model, state, cfg.MODEL.WEIGHT, logger)
    _check_whole(matching, cfg)
    if matching.unusable:
        raise InputError(unusable_sentence(matching.unusable, f"'{cfg.MODEL.WEIGHT}'"))
    model.category_names = tuple(meta.categories or training_names(cfg))
    return make_tested_detector(cfg, model, cfg.TEST.COMPILE)


def _check_whole(matching: WeightMatching, cfg: Config) -> None:
    """Raise InputError if a file does not hold the whole detector."""
    untrained = [*matching.missing, *(key for key, _, _ in matching.mismatched)]
    if not untrained:
        return
    advice = "use the config of its training, NUM_CLASSES included"
    classes = [theirs[0] for key, theirs, _ in matching.mismatched if "cls_logits" in key]
    if classes:
        advice = (
            f"write MODEL.FCOS.NUM_CLASSES {classes[0] + 1}, because the file has {classes[0]} classes (and "
            "DATASETS.FEWER_CATEGORIES True, if a dataset lists fewer)"
        )
    raise InputError(
        f"'{cfg.MODEL.WEIGHT}' does not hold the whole detector: {len(untrained)} parameters would be random, such "
        f"as {untrained[0]}. Name the file of a trained detector, and {advice}."
    )
