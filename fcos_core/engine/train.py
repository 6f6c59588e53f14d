"""Train the detector that a config describes, and test it during the training."""

import contextlib
import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fcos_core.config import Config
from fcos_core.config.checks import check_values, trains_batch_norm
from fcos_core.config.node import leaves
from fcos_core.data import make_data_loader
from fcos_core.data.image_check import check_images
from fcos_core.data.loader import BatchLoader
from fcos_core.engine.classes import label_test_data, label_training_data
from fcos_core.engine.config_changes import log_changes
from fcos_core.engine.step import TrainingStep
from fcos_core.engine.test import test
from fcos_core.engine.trainer import TrainingOptions, do_train
from fcos_core.errors import InputError, require
from fcos_core.layers.sync_batch_norm import SyncBatchNorm
from fcos_core.modeling.detector import build_detection_model
from fcos_core.solver import make_lr_scheduler, make_optimizer
from fcos_core.utils import comm
from fcos_core.utils.collect_env import collect_env_info
from fcos_core.utils.files import check_writable, explaining_failure, replacing
from fcos_core.utils.folder_lock import locked
from fcos_core.utils.metrics_file import MetricsWriter
from fcos_core.utils.text import printable
from fcos_core.utils.trackers import TrackerSettings
from fcos_core.weights.checkpointer import DetectronCheckpointer

# What a checkpoint of this training holds beside the states of model, optimizer and schedule.
_ARGUMENTS = {"iteration": int, "best": (int, float), "recent_values": dict}

logger = logging.getLogger(__name__)


def train(cfg: Config, test_loaders: dict[str, BatchLoader] | None = None) -> nn.Module:
    """Train the model that `cfg` describes; resume if OUTPUT_DIR holds a training state.

    Args:
        cfg: the whole config. If a training resumes, all of its values hold, and those that differ from the last run's
            are logged.
        test_loaders: as `test_data_loaders` makes them, to test the model every TEST.EVAL_PERIOD iterations and at
            the end; empty: no test.

    Returns:
        The trained model; the average of its weights if TEST.USE_EMA is set.

    Raises:
        InputError: the config, the data or the weights cannot be used, or another training writes to OUTPUT_DIR.
        LostProcessError: another process exited.
    """
    with training_folder(cfg):
        return _train(cfg, test_loaders)


def training_folder(cfg: Config) -> contextlib.AbstractContextManager[Any]:
    """Make a context that keeps other trainings out of OUTPUT_DIR; enter it before anything is written there.

    Only the main process writes, so only it holds the lock. Raise InputError on entry if another training holds it, or
    a file of the training cannot be written to.
    """
    if not comm.is_main_process():
        return contextlib.nullcontext()
    check_writable(cfg.OUTPUT_DIR, "OUTPUT_DIR", "log.txt", "metrics.jsonl", "config.yaml", "environment.txt")
    curves = os.path.join(cfg.OUTPUT_DIR, "tensorboard")
    if os.path.lexists(curves):
        check_writable(curves, "OUTPUT_DIR")
    return locked(cfg.OUTPUT_DIR)


def _train(cfg: Config, test_loaders: dict[str, BatchLoader] | None) -> nn.Module:
    _check(cfg)
    torch.manual_seed(cfg.SEED)
    model = build_detection_model(cfg).to(cfg.MODEL.DEVICE)
    optimizer = make_optimizer(cfg, model)
    scheduler = make_lr_scheduler(cfg, optimizer)
    step = make_training_step(cfg, model, optimizer)
    average = _make_average(cfg, model)
    checkpointer = _make_checkpointer(cfg, model, scheduler, step, average)
    arguments, data_loader = _resume_or_start(cfg, checkpointer, average)
    tested = average.module if cfg.TEST.USE_EMA else model
    tested.category_names = getattr(model, "category_names", None)
    for loader in (test_loaders or {}).values():
        label_test_data(tested, loader.dataset)
    evaluation = _Evaluation(cfg, tested, test_loaders, checkpointer, arguments) if test_loaders else None
    if arguments["iteration"] == cfg.SOLVER.MAX_ITER:
        _finish(cfg, checkpointer, arguments, evaluation)
        return tested
    if cfg.DATALOADER.CHECK_IMAGES:
        datasets = [loader.dataset for loader in (data_loader, *(test_loaders or {}).values())]
        check_images(datasets, cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.SKIP_UNREADABLE)
    _write_record(cfg)
    options = TrainingOptions(
        seed=cfg.SEED,
        log_period=cfg.SOLVER.LOG_PERIOD,
        timeout=cfg.DISTRIBUTED.TIMEOUT,
        step=step,
        average=average,
        evaluate=evaluation,
        eval_period=cfg.TEST.EVAL_PERIOD,
        trackers=make_trackers(cfg),
    )
    period = cfg.SOLVER.CHECKPOINT_PERIOD
    do_train(step.model, data_loader, optimizer, scheduler, checkpointer, step.device, period, arguments, options)
    comm.broadcast_buffers(tested)
    return tested


def make_training_step(cfg: Config, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingStep:
    """Make the step that SOLVER.* describes for a detector on MODEL.DEVICE.

    The weights are laid out channels last and the parts compiled in place if SOLVER.CHANNELS_LAST and SOLVER.COMPILE
    are set. With several processes the step's `model` wraps the detector.
    """
    solver, device = cfg.SOLVER, torch.device(cfg.MODEL.DEVICE)
    if solver.CHANNELS_LAST:
        model.to(memory_format=torch.channels_last)
    if solver.COMPILE:
        # Compiled parts take images of any size. The neck stays eager because its pooling would be compiled again
        # for every size, and the losses because their shapes depend on the boxes.
        model.rpn.head.compile()
        if not _has_collectives(model.backbone.body):
            model.backbone.body.compile()
    return TrainingStep(
        _distributed(model, device),
        optimizer,
        device,
        assign_targets=model.assign_targets,
        scaler=torch.amp.GradScaler(device.type, enabled=solver.PRECISION == "float16"),
        precision=None if solver.PRECISION == "float32" else getattr(torch, solver.PRECISION),
        accumulate_steps=solver.ACCUMULATE_STEPS,
        clip_gradient_norm=solver.CLIP_GRADIENT_NORM,
        channels_last=solver.CHANNELS_LAST,
    )


@dataclass
class _Evaluation:
    """Test of the model during training, which saves the best model as model_best.pth if TEST.EVAL_PERIOD is set.

    In `arguments`, which a checkpoint holds, "best" becomes the highest metric so far.
    """

    cfg: Config
    model: nn.Module
    loaders: dict[str, BatchLoader]
    checkpointer: DetectronCheckpointer
    arguments: dict[str, Any]

    def __call__(self, finished: bool) -> dict[str, float]:
        """Return metrics by "dataset/metric" on the main process; compare TEST.EXPECTED_RESULTS if `finished`."""
        # BatchNorm statistics differ between processes: test everywhere with those of the main process, which saves.
        comm.broadcast_buffers(self.model)
        # Test the parts that SOLVER.COMPILE compiled without another compilation for the test's shapes.
        with torch.compiler.set_stance("force_eager"):
            results = test(self.cfg, self.loaders, self.model, final=finished)
        results = {name: result for name, result in results.items() if result}
        metric = self.cfg.TEST.BEST_METRIC
        if self.cfg.TEST.EVAL_PERIOD and metric and (first := results.get(self.cfg.DATASETS.TEST[0])):
            self._save_if_best(metric, first["bbox"][metric])
        return {f"{name}/{key}": value for name, result in results.items() for key, value in result["bbox"].items()}

    def _save_if_best(self, metric: str, value: float) -> None:
        if value == -1:
            logger.warning(
                "%s is -1, as %s has no box for it: no model is the best.", metric, self.cfg.DATASETS.TEST[0]
            )
            return
        best = self.arguments.get("best")
        if best is not None and value <= best:
            logger.info("%s is %.4f; the best so far is %.4f.", metric, value, best)
            return
        self.arguments["best"] = value
        logger.info("%s is %.4f, the best so far.", metric, value)
        self.checkpointer.save("model_best", tag=False, **self.arguments)


def make_trackers(cfg: Config) -> TrackerSettings | None:
    """Return the trackers of LOG.TRACKERS, which get the config's keys and values; None without any."""
    if not cfg.LOG.TRACKERS:
        return None
    # Without the passwords in URLs.
    config = {key: printable(value) if isinstance(value, str) else value for key, value in leaves(cfg)}
    return TrackerSettings(tuple(dict.fromkeys(cfg.LOG.TRACKERS)), cfg.LOG.PROJECT, config)


def _check(cfg: Config) -> None:
    check_values(cfg)
    if trackers := make_trackers(cfg):
        trackers.check_installed()
    solver, test = cfg.SOLVER, cfg.TEST
    share = solver.IMS_PER_BATCH // comm.get_world_size()
    fits = max(share, 1) >= solver.ACCUMULATE_STEPS
    wanted = f"1 to {share}, the images of a batch in each process"
    require(fits, "SOLVER.ACCUMULATE_STEPS", solver.ACCUMULATE_STEPS, wanted)
    averaged = solver.EMA_DECAY > 0 or not test.USE_EMA
    require(averaged, "TEST.USE_EMA", test.USE_EMA, "False, or set SOLVER.EMA_DECAY above 0")
    if solver.ACCUMULATE_STEPS > 1 and trains_batch_norm(cfg):
        logger.warning("Trained BatchNorms compute statistics over one part of SOLVER.ACCUMULATE_STEPS at a time.")


def _make_average(cfg: Config, model: nn.Module) -> AveragedModel | None:
    if not cfg.SOLVER.EMA_DECAY:
        return None
    # AveragedModel copies buffers without averaging: BatchNorm statistics are averages already.
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(cfg.SOLVER.EMA_DECAY))


def _make_checkpointer(
    cfg: Config, model: nn.Module, scheduler: LRScheduler, step: TrainingStep, average: AveragedModel | None
) -> DetectronCheckpointer:
    others = {"scaler": step.scaler if step.scaler.is_enabled() else None, "ema": average}
    others = {name: part for name, part in others.items() if part is not None}
    keep = cfg.SOLVER.CHECKPOINT_KEEP_LAST
    return DetectronCheckpointer(cfg, model, step.optimizer, scheduler, cfg.OUTPUT_DIR, others=others, keep_last=keep)


def _resume_or_start(
    cfg: Config, checkpointer: DetectronCheckpointer, average: AveragedModel | None
) -> tuple[dict[str, Any], BatchLoader]:
    """Resume from OUTPUT_DIR, or load MODEL.WEIGHT; return the arguments of the training and its data loader."""
    try:
        resumed = checkpointer.resume()
    finally:  # if a state does not fit, the changes tell why
        if checkpointer.resumed_from:
            log_changes(cfg, checkpointer.loaded_config, checkpointer.resumed_from)
    arguments = {"iteration": 0} if resumed is None else _read_arguments(resumed, checkpointer.resumed_from)
    _check_iteration(arguments["iteration"], cfg.SOLVER.MAX_ITER, checkpointer)
    # Build the loader before the weights are read: an error in the data should not wait for a download.
    distributed = comm.get_world_size() > 1
    data_loader = make_data_loader(cfg, is_train=True, is_distributed=distributed, start_iter=arguments["iteration"])
    if resumed is None:
        checkpointer.load_weights(cfg.MODEL.WEIGHT)
    if average is not None and not average.n_averaged:
        # An average that begins now, in a new training or in a resumed one, begins as the weights are now.
        average.module.load_state_dict(checkpointer.model.state_dict())
    label_training_data(checkpointer, data_loader.dataset)
    return arguments, data_loader


def _read_arguments(resumed: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the arguments among the values of a checkpoint; raise InputError if it has no iteration, or an odd one."""
    arguments = {name: value for name, value in resumed.items() if isinstance(value, _ARGUMENTS.get(name, ()))}
    iteration = resumed.get("iteration")
    if "iteration" not in arguments or iteration < 0:
        raise InputError(
            f"Cannot resume: '{path}' does not say how many iterations are done (\"iteration\" is {iteration!r}): name "
            "another checkpoint in last_checkpoint; or delete last_checkpoint and name this file in MODEL.WEIGHT, to "
            "begin again from its weights."
        )
    return arguments


def _check_iteration(iteration: int, last: int, checkpointer: DetectronCheckpointer) -> None:
    if iteration > last:
        raise InputError(
            f"'{checkpointer.resumed_from}' is of iteration {iteration}, but SOLVER.MAX_ITER is {last}: raise it, set "
            "OUTPUT_DIR to another folder, or write the name of an earlier checkpoint into last_checkpoint."
        )


def _finish(
    cfg: Config, checkpointer: DetectronCheckpointer, arguments: dict[str, Any], evaluation: _Evaluation | None
) -> None:
    """Complete a training whose iterations are done: write a missing model_final.pth, and test."""
    logger.info("Iteration %d of %d is done: nothing to train.", arguments["iteration"], cfg.SOLVER.MAX_ITER)
    if Path(checkpointer.resumed_from).name != "model_final.pth":
        # The former run was killed before it wrote the file, or the file is damaged.
        checkpointer.save("model_final", **arguments)
    if evaluation is None:
        return
    metrics = evaluation(True)
    if comm.is_main_process():
        # The former run may have been killed within this evaluation: metrics.jsonl lacks its line then.
        writer = MetricsWriter(cfg.OUTPUT_DIR, arguments["iteration"], make_trackers(cfg))
        writer.write(arguments["iteration"], metrics)
        writer.close()


def _write_record(cfg: Config) -> None:
    """Write the config and the environment beside the checkpoints."""
    if comm.is_main_process():
        for name, text in (("config.yaml", cfg.dump()), ("environment.txt", f"{collect_env_info()}\n")):
            path = os.path.join(cfg.OUTPUT_DIR, name)
            with explaining_failure(path), replacing(path) as file:
                file.write(text.encode(errors="backslashreplace"))


def _has_collectives(body: nn.Module) -> bool:
    """Return True if `body` synchronizes a BatchNorm: torch.compile would silently give it wrong gradients."""
    synchronized = any(isinstance(module, (SyncBatchNorm, nn.SyncBatchNorm)) for module in body.modules())
    return synchronized and comm.get_world_size() > 1


def _distributed(model: nn.Module, device: torch.device) -> nn.Module:
    if comm.get_world_size() == 1:
        return model
    device_ids = [torch.cuda.current_device()] if device.type == "cuda" else None
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
    return nn.parallel.DistributedDataParallel(
        model,
        device_ids=device_ids,
        # All processes start from the same weights; afterwards each tracks its own BatchNorm statistics.
        broadcast_buffers=False,
        # Without this option the gradient buckets change after the first iteration. The last bit of gloo's sums over
        # more than two processes depends on the buckets: a resumed run would differ from an uninterrupted one.
        find_unused_parameters=device.type == "cpu",
    )
