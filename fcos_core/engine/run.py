"""Whole runs from a config: what tools/train_net.py and tools/test_net.py do."""

import logging
import os
import tempfile
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fcos_core.data import make_data_loader
from fcos_core.data.loader import BatchLoader
from fcos_core.engine.inference import inference
from fcos_core.engine.trainer import do_train
from fcos_core.errors import InputError, require
from fcos_core.modeling.detector import build_detection_model
from fcos_core.solver import make_lr_scheduler, make_optimizer
from fcos_core.utils import comm
from fcos_core.utils.checkpoint import DetectronCheckpointer
from fcos_core.utils.collect_env import collect_env_info
from fcos_core.utils.logger import setup_logger
from fcos_core.utils.matching import load_matching
from fcos_core.utils.weights import load_state_dict_file

if TYPE_CHECKING:
    from fcos_core.config import Config

logger = logging.getLogger(__name__)


def setup_run(cfg: "Config") -> None:
    """Make OUTPUT_DIR, start logging there, and log the environment and the config.

    Raises:
        InputError: OUTPUT_DIR is not a folder one can write to.
    """
    _check_writable(cfg.OUTPUT_DIR)
    setup_logger("fcos_core", cfg.OUTPUT_DIR, comm.get_rank())
    if cfg.MODEL.DEVICE == "cpu" and not torch.cuda.is_available():
        logger.info("There is no CUDA device: running on the CPU.")
    logger.info("Using %d process%s", comm.get_world_size(), "es" if comm.get_world_size() > 1 else "")
    logger.info("Environment\n%s", collect_env_info())
    logger.info("Running with config:\n%s", cfg)


def train(cfg: "Config") -> nn.Module:
    """Train the model that `cfg` describes, on from OUTPUT_DIR where a training was begun there.

    Returns:
        The trained model.

    Raises:
        InputError: something in the config, the data or the weights cannot be used.
    """
    require(cfg.SOLVER.CHECKPOINT_PERIOD >= 1, "SOLVER.CHECKPOINT_PERIOD", cfg.SOLVER.CHECKPOINT_PERIOD, "1 or more")
    torch.manual_seed(cfg.SEED)
    device = torch.device(cfg.MODEL.DEVICE)
    model = build_detection_model(cfg).to(device)
    optimizer = make_optimizer(cfg, model)
    scheduler = make_lr_scheduler(cfg, optimizer)
    checkpointer = DetectronCheckpointer(cfg, model, optimizer, scheduler, cfg.OUTPUT_DIR, comm.is_main_process())
    resumed = checkpointer.resume()
    arguments = {"iteration": 0, **(resumed or {})}
    # Data is looked at before weights: a mistake there should not wait for a download.
    data_loader = make_data_loader(
        cfg, is_train=True, is_distributed=comm.get_world_size() > 1, start_iter=arguments["iteration"]
    )
    if resumed is None:
        checkpointer.load(cfg.MODEL.WEIGHT)
    if arguments["iteration"] >= cfg.SOLVER.MAX_ITER:
        logger.info("Iteration %d of %d is done: nothing to train.", arguments["iteration"], cfg.SOLVER.MAX_ITER)
        return model
    do_train(
        _distributed(model, device),
        data_loader,
        optimizer,
        scheduler,
        checkpointer,
        device,
        cfg.SOLVER.CHECKPOINT_PERIOD,
        arguments,
    )
    comm.broadcast_buffers(model)
    return model


def test_data_loaders(cfg: "Config") -> dict[str, BatchLoader]:
    """A loader for each dataset of DATASETS.TEST, by name.

    Raises:
        InputError: a dataset cannot be used.
    """
    loaders = make_data_loader(cfg, is_train=False, is_distributed=comm.get_world_size() > 1)
    return dict(zip(cfg.DATASETS.TEST, loaders, strict=True))


def test(
    cfg: "Config", data_loaders: dict[str, BatchLoader], model: nn.Module | None = None
) -> dict[str, dict[str, Any] | None]:
    """Test `model`, or the file that MODEL.WEIGHT names, on every dataset.

    Args:
        cfg: the whole config.
        data_loaders: as `test_data_loaders` gives them.
        model: on MODEL.DEVICE.

    Returns:
        Dataset name to metrics, as `fcos_core.engine.inference.inference` gives them.

    Raises:
        InputError: something in the config, the data or the weights cannot be used.
    """
    if model is None:
        model = _load_model(cfg)
    results = {}
    for name, data_loader in data_loaders.items():
        results[name] = inference(
            model,
            data_loader,
            dataset_name=name,
            device=cfg.MODEL.DEVICE,
            expected_results=cfg.TEST.EXPECTED_RESULTS,
            expected_results_sigma_tol=cfg.TEST.EXPECTED_RESULTS_SIGMA_TOL,
            output_folder=os.path.join(cfg.OUTPUT_DIR, "inference", name),
        )
        comm.synchronize()
    return results


def _load_model(cfg: "Config") -> nn.Module:
    if not cfg.MODEL.WEIGHT:
        raise InputError("Testing needs weights: name a file in MODEL.WEIGHT.")
    model = build_detection_model(cfg).to(cfg.MODEL.DEVICE)
    matching = load_matching(model, load_state_dict_file(cfg.MODEL.WEIGHT), cfg.MODEL.WEIGHT, logger)
    untrained = [*matching.missing, *(key for key, _, _ in matching.mismatched)]
    if untrained:
        raise InputError(
            f"'{cfg.MODEL.WEIGHT}' is not of this whole detector: {len(untrained)} parameters would be random, such "
            f"as {untrained[0]}. Name a trained detector's file, with the config (NUM_CLASSES too) it was trained with."
        )
    return model


def _distributed(model: nn.Module, device: torch.device) -> nn.Module:
    if comm.get_world_size() == 1:
        return model
    device_ids = [torch.cuda.current_device()] if device.type == "cuda" else None
    # Every process starts from the same weights; BatchNorm statistics that are trained stay each process' own.
    return nn.parallel.DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)


def _check_writable(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"OUTPUT_DIR '{os.path.abspath(folder)}' cannot be written to ({error.strerror}); name another folder."
        ) from error
