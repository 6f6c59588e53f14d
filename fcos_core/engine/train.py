"""Train the detector that the config describes, and test it on the way."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fcos_core.config import Config
from fcos_core.config.checks import check_values
from fcos_core.data import make_data_loader
from fcos_core.data.loader import BatchLoader
from fcos_core.engine.step import TrainingStep
from fcos_core.engine.test import test
from fcos_core.engine.trainer import TrainingOptions, do_train
from fcos_core.errors import require
from fcos_core.layers.sync_batch_norm import SyncBatchNorm
from fcos_core.modeling.detector import build_detection_model
from fcos_core.solver import make_lr_scheduler, make_optimizer
from fcos_core.utils import comm
from fcos_core.utils.collect_env import collect_env_info
from fcos_core.weights.checkpointer import DetectronCheckpointer

logger = logging.getLogger(__name__)


def train(cfg: Config, test_loaders: dict[str, BatchLoader] | None = None) -> nn.Module:
    """Train the model that `cfg` describes, on from OUTPUT_DIR where a training was begun there.

    Args:
        cfg: the whole config.
        test_loaders: as `test_data_loaders` gives them: the model is tested on them at the end, and before every
            TEST.EVAL_PERIOD iterations. Empty: it is not tested.

    Returns:
        The trained model; the average of its weights where TEST.USE_EMA says so.

    Raises:
        InputError: something in the config, the data or the weights cannot be used.
        LostProcessError: another process has gone.
    """
    _check(cfg)
    torch.manual_seed(cfg.SEED)
    device = torch.device(cfg.MODEL.DEVICE)
    model = build_detection_model(cfg).to(device)
    optimizer = make_optimizer(cfg, model)
    scheduler = make_lr_scheduler(cfg, optimizer)
    step = make_training_step(cfg, model, optimizer)
    average = _make_average(cfg, model)
    others = {"scaler": step.scaler if step.scaler.is_enabled() else None, "ema": average}
    checkpointer = DetectronCheckpointer(
        cfg,
        model,
        optimizer,
        scheduler,
        cfg.OUTPUT_DIR,
        others={name: part for name, part in others.items() if part is not None},
        keep_last=cfg.SOLVER.CHECKPOINT_KEEP_LAST,
    )
    resumed = checkpointer.resume()
    arguments = {name: value for name, value in (resumed or {}).items() if name in ("iteration", "best")}
    arguments.setdefault("iteration", 0)
    # Data is looked at before weights: a mistake there should not wait for a download.
    data_loader = make_data_loader(
        cfg, is_train=True, is_distributed=comm.get_world_size() > 1, start_iter=arguments["iteration"]
    )
    if resumed is None:
        checkpointer.load(cfg.MODEL.WEIGHT)
    tested = average.module if cfg.TEST.USE_EMA else model
    evaluation = _Evaluation(cfg, tested, test_loaders, checkpointer, arguments) if test_loaders else None
    if arguments["iteration"] >= cfg.SOLVER.MAX_ITER:
        logger.info("Iteration %d of %d is done: nothing to train.", arguments["iteration"], cfg.SOLVER.MAX_ITER)
        if Path(checkpointer.resumed_from).name != "model_final.pth":
            # The run before was killed just ahead of writing it, or it is damaged.
            checkpointer.save("model_final", **arguments)
        if evaluation is not None:
            evaluation(True)
        return tested
    _write_record(cfg)
    options = TrainingOptions(
        seed=cfg.SEED,
        log_period=cfg.SOLVER.LOG_PERIOD,
        timeout=cfg.DISTRIBUTED.TIMEOUT,
        step=step,
        average=average,
        evaluate=evaluation,
        eval_period=cfg.TEST.EVAL_PERIOD,
    )
    do_train(
        step.model,
        data_loader,
        optimizer,
        scheduler,
        checkpointer,
        device,
        cfg.SOLVER.CHECKPOINT_PERIOD,
        arguments,
        options,
    )
    comm.broadcast_buffers(tested)
    return tested


def make_training_step(cfg: Config, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingStep:
    """Gradients and updates as SOLVER.* describes them.

    Args:
        cfg: the whole config.
        model: a detector on MODEL.DEVICE. As the config says it is laid out channels last and compiled, in place;
            with several processes it is wrapped as the step's `model`.
        optimizer: of the model's parameters.
    """
    solver, device = cfg.SOLVER, torch.device(cfg.MODEL.DEVICE)
    if solver.CHANNELS_LAST:
        model.to(memory_format=torch.channels_last)
    if solver.COMPILE:
        # Shapes become variables where they change. Not so the neck's pooling, which would be compiled again and
        # again, nor the losses, whose shapes depend on the boxes.
        model.rpn.head.compile()
        if not _talks_to_other_processes(model.backbone.body):
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


class _Evaluation:
    """Tests the model in training and, where that is done more than once, keeps the best as model_best.pth.

    Args:
        model: what is tested.
        arguments: those of the training; "best" is set to the highest metric so far.
    """

    def __init__(
        self,
        cfg: Config,
        model: nn.Module,
        loaders: dict[str, BatchLoader],
        checkpointer: DetectronCheckpointer,
        arguments: dict[str, Any],
    ) -> None:
        self.cfg = cfg
        self.model = model
        self.loaders = loaders
        self.checkpointer = checkpointer
        self.arguments = arguments

    def __call__(self, finished: bool) -> dict[str, float]:
        """Metrics by "dataset/metric"; empty on processes other than the main one.

        Args:
            finished: the training is; TEST.EXPECTED_RESULTS are of its end.
        """
        # Each process has tracked statistics of its own; all test with those that are saved.
        comm.broadcast_buffers(self.model)
        # Of what SOLVER.COMPILE has compiled for training, nothing is compiled again to test.
        with torch.compiler.set_stance("force_eager"):
            results = test(self.cfg, self.loaders, self.model, check_expected=finished)
        results = {name: result for name, result in results.items() if result}
        metric = self.cfg.TEST.BEST_METRIC
        if self.cfg.TEST.EVAL_PERIOD and metric and (first := results.get(self.cfg.DATASETS.TEST[0])):
            self._keep_best(metric, first["bbox"][metric])
        return {f"{name}/{key}": value for name, result in results.items() for key, value in result["bbox"].items()}

    def _keep_best(self, metric: str, value: float) -> None:
        best = self.arguments.get("best")
        if best is not None and value <= best:
            logger.info("%s is %.4f; the best so far is %.4f.", metric, value, best)
            return
        self.arguments["best"] = value
        logger.info("%s is %.4f, the best so far.", metric, value)
        self.checkpointer.save("model_best", tag=False, **self.arguments)


def _write_record(cfg: Config) -> None:
    """Beside the checkpoints, what they were made with."""
    if comm.is_main_process():
        folder = Path(cfg.OUTPUT_DIR)
        (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
        (folder / "environment.txt").write_text(collect_env_info() + "\n", encoding="utf-8")


def _make_average(cfg: Config, model: nn.Module) -> AveragedModel | None:
    if not cfg.SOLVER.EMA_DECAY:
        return None
    # Buffers are taken over as they are: statistics are averages already.
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(cfg.SOLVER.EMA_DECAY))


def _talks_to_other_processes(body: nn.Module) -> bool:
    """Whether collectives run in it: torch.compile gives a BatchNorm over processes wrong gradients, silently."""
    sync = (SyncBatchNorm, nn.SyncBatchNorm)
    return comm.get_world_size() > 1 and any(isinstance(module, sync) for module in body.modules())


def _distributed(model: nn.Module, device: torch.device) -> nn.Module:
    if comm.get_world_size() == 1:
        return model
    device_ids = [torch.cuda.current_device()] if device.type == "cuda" else None
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
    return nn.parallel.DistributedDataParallel(
        model,
        device_ids=device_ids,
        # Every process starts from the same weights; statistics that are trained stay each process' own.
        broadcast_buffers=False,
        # Without it buckets are laid out anew after the first iteration, and gloo's sums of more than two
        # processes depend on the layout in their last bit: a resumed run would differ from an uninterrupted one.
        find_unused_parameters=device.type == "cpu",
    )


def _check(cfg: Config) -> None:
    check_values(cfg)
    solver, test = cfg.SOLVER, cfg.TEST
    share = solver.IMS_PER_BATCH // comm.get_world_size()
    fits = max(share, 1) >= solver.ACCUMULATE_STEPS
    wanted = f"1 to {share}, the images of a batch in each process"
    require(fits, "SOLVER.ACCUMULATE_STEPS", solver.ACCUMULATE_STEPS, wanted)
    averaged = solver.EMA_DECAY > 0 or not test.USE_EMA
    require(averaged, "TEST.USE_EMA", test.USE_EMA, "False, or set SOLVER.EMA_DECAY above 0")
    if solver.ACCUMULATE_STEPS > 1 and (cfg.MODEL.SYNCBN or cfg.MODEL.HRNET.TRAIN_BN):
        logger.warning("BatchNorms that are trained see one part of SOLVER.ACCUMULATE_STEPS at a time.")
