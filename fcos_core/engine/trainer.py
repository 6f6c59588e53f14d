"""The training loop."""

import datetime
import functools
import logging
import math
import re
import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fcos_core.data.loader import naming_killed_readers
from fcos_core.engine.prefetch import prefetch
from fcos_core.engine.snapshot import TrainingState
from fcos_core.engine.step import TrainingStep
from fcos_core.engine.watchdog import Guard
from fcos_core.errors import InputError, LostProcessError
from fcos_core.utils import comm
from fcos_core.utils.meters import MetricLogger
from fcos_core.utils.metrics_file import MetricsWriter
from fcos_core.weights.checkpointer import DetectronCheckpointer, unwrapped

# What PyTorch's CPU allocator says, and oneDNN where it finds no room for a kernel.
_NO_MEMORY = re.compile("can't allocate memory|could not create a (primitive|memory)")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingOptions:
    """What `do_train` does beside the plain loop.

    Attributes:
        seed: at least 0; random numbers of an iteration come from it, the iteration and the rank.
        log_period: iterations between log lines.
        timeout: seconds that a step may take, waiting for other processes or for data.
        step: gradients and updates of the model; None: `TrainingStep` with its defaults.
        average: moving average of the weights, updated every iteration; also among the checkpointer's `others`.
        evaluate: tests the model; takes whether the training is finished, returns metrics by name to write down.
        eval_period: iterations between its calls before the last one; 0: none.
    """

    seed: int = 0
    log_period: int = 20
    timeout: float = 1800
    step: TrainingStep | None = None
    average: AveragedModel | None = None
    evaluate: Callable[[bool], dict[str, float]] | None = None
    eval_period: int = 0


def do_train(
    model: nn.Module,
    data_loader: Iterable,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    checkpointer: DetectronCheckpointer,
    device: torch.device | str,
    checkpoint_period: int,
    arguments: dict[str, Any],
    options: TrainingOptions | None = None,
) -> None:
    """Train to the end of `data_loader`.

    Every log period a line is logged and an object added to metrics.jsonl beside the checkpoints; every
    `checkpoint_period` iterations model_NNNNNNN.pth is saved, and model_final.pth at the end. The last finished
    iteration is also saved when an error, SIGTERM or SIGINT ends the training; a signal ends the process.

    Args:
        model: images and targets to a dict of losses.
        data_loader: gives (ImageList, list of BoxList, dataset indices) an iteration.
        optimizer, scheduler: as `fcos_core.solver` makes them.
        checkpointer: saves the state.
        device: where the model is.
        checkpoint_period: iterations between checkpoints.
        arguments: {"iteration": iterations already trained}; counted up, and saved in every checkpoint.
        options: whatever differs from the defaults.

    Raises:
        InputError: a loss is not finite, memory does not suffice, or the data cannot be read.
        LostProcessError: another process has gone.
    """
    options = options or TrainingOptions()
    model.train()
    state = TrainingState(checkpointer, arguments)
    with Guard(state.save_unsaved, options.timeout) as guard:
        try:
            with naming_killed_readers():
                _train(model, data_loader, optimizer, scheduler, state, device, checkpoint_period, options, guard)
        except NonFiniteLossError:
            # The weights before it may be ruined already; a run that goes on starts from an earlier checkpoint.
            raise
        except Exception as error:
            saved = state.try_to_save()
            logger.error("Training ended: %s; %s.", guard, saved)
            _explain(error, guard)
            raise


def _train(
    model: nn.Module,
    data_loader: Iterable,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    state: TrainingState,
    device: torch.device | str,
    checkpoint_period: int,
    options: TrainingOptions,
    guard: Guard,
) -> None:
    first = state.arguments["iteration"] + 1
    max_iter = first - 1 + len(data_loader)
    step = options.step or TrainingStep(model, optimizer, device)
    log = TrainingLog(state.checkpointer.save_dir, first, max_iter, options.log_period)
    batches = prefetch(data_loader, device)
    logger.info("Start training")
    start = time.perf_counter()
    for iteration in range(first, max_iter + 1):
        if _evaluation_is_due(iteration - 1, options):
            _evaluate(model, iteration - 1, options, guard, log)
        log.start_iteration()
        guard.at(iteration, "reading of data")
        images, targets, indices = next(batches)
        log.data_is_read()
        _seed_everything(options.seed, iteration)
        scheduler.step()
        losses = step.compute_gradients(images, targets, functools.partial(guard.at, iteration))
        norm = step.clip_gradients()
        values = _over_processes(losses)
        if not math.isfinite(sum(values.values())):
            _stop(iteration, values, losses, _image_ids(data_loader, indices), state)
        if norm is not None:  # read while the device has nothing left to do
            values["grad_norm"] = norm.item()
        guard.at(iteration, "optimizer step")
        with state.finishing(iteration):
            step.update()
            if options.average is not None:
                options.average.update_parameters(unwrapped(model))
        log.end_iteration(iteration, values, len(targets), optimizer)
        guard.at(iteration, "saving", timed=False)
        if iteration % checkpoint_period == 0:
            state.save()
        if iteration == max_iter:
            state.save("model_final")
    if options.evaluate is not None:
        _evaluate(model, max_iter, options, guard, log)
    log.close()
    seconds = time.perf_counter() - start
    per_iteration = seconds / max(max_iter - first + 1, 1)
    logger.info("Total training time: %s (%.4f s / it)", datetime.timedelta(seconds=int(seconds)), per_iteration)


class NonFiniteLossError(InputError):
    """A loss is infinite or not a number."""


class TrainingLog:
    """Times and losses of iterations: a line in the log and in the metrics file every log period.

    Args:
        folder: gets metrics.jsonl and TensorBoard's files; empty: neither.
        first, max_iter: iterations that the training goes through.
        period: iterations between lines.
    """

    def __init__(self, folder: str, first: int, max_iter: int, period: int) -> None:
        self.max_iter = max_iter
        self.period = period
        self._meters = MetricLogger(window_size=period)
        self._writer = MetricsWriter(folder, first - 1) if folder and comm.is_main_process() else None

    def start_iteration(self) -> None:
        self._start = time.perf_counter()

    def data_is_read(self) -> None:
        self._data_time = time.perf_counter() - self._start

    def end_iteration(
        self, iteration: int, values: dict[str, float], num_images: int, optimizer: torch.optim.Optimizer
    ) -> None:
        """Note losses by name and whatever else is in `values`, of `num_images` images in each process."""
        losses = {name: value for name, value in values.items() if name.startswith("loss")}
        seconds = time.perf_counter() - self._start
        self._meters.update(loss=sum(losses.values()), **values, time=seconds, data=self._data_time)
        if comm.is_main_process() and (iteration % self.period == 0 or iteration == self.max_iter):
            self._write(iteration, num_images * comm.get_world_size(), optimizer.param_groups[0]["lr"])

    def evaluated(self, iteration: int, metrics: dict[str, float]) -> None:
        if self._writer is not None:
            self._writer.write(iteration, metrics)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write(self, iteration: int, num_images: int, lr: float) -> None:
        medians, memory = self._meters.medians(), _peak_memory_mb()
        seconds = self._meters.meters["time"].global_avg * (self.max_iter - iteration)
        eta = datetime.timedelta(seconds=int(seconds))
        line = [f"eta: {eta}", f"iter: {iteration}", str(self._meters), f"lr: {lr:.6f}", f"max mem: {memory:.0f}"]
        logger.info(self._meters.delimiter.join(line))
        if self._writer is not None:
            speed = num_images / medians["time"]
            self._writer.write(iteration, {**medians, "lr": lr, "max_mem": memory, "images_per_s": speed})


def _evaluation_is_due(iteration: int, options: TrainingOptions) -> bool:
    """Asked before the next iteration, so that a training resumed at `iteration` evaluates it too."""
    return options.evaluate is not None and options.eval_period > 0 < iteration and iteration % options.eval_period == 0


def _evaluate(model: nn.Module, iteration: int, options: TrainingOptions, guard: Guard, log: TrainingLog) -> None:
    # Its time is bounded by the process group's timeout where processes wait for each other.
    guard.at(iteration, "evaluation", timed=False)
    log.evaluated(iteration, options.evaluate(iteration == log.max_iter))
    model.train()


def _seed_everything(seed: int, iteration: int) -> None:
    """What a module draws at random is a function of the iteration, so that resuming changes nothing."""
    words = np.random.SeedSequence((seed, iteration, comm.get_rank())).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0]))


def _over_processes(losses: dict[str, Tensor]) -> dict[str, float]:
    """Losses of the whole batch; normalizers are global, so that their mean over the processes is it."""
    total = comm.all_reduce_sum(torch.stack(list(losses.values()))) / comm.get_world_size()
    return dict(zip(losses, total.tolist(), strict=True))


def _peak_memory_mb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _image_ids(data_loader: Any, indices: Iterable[int]) -> list[int]:
    # A loader of somebody's own may know its images by index alone.
    image_id = getattr(getattr(data_loader, "dataset", None), "image_id", int)
    return [image_id(index) for index in indices]


def _stop(
    iteration: int, values: dict[str, float], own: dict[str, Tensor], image_ids: list[int], state: TrainingState
) -> None:
    state.save("model_nonfinite", tag=False)
    finite = math.isfinite(sum(loss.item() for loss in own.values()))
    suspects = [image_id for ids in comm.all_gather_objects([] if finite else image_ids) for image_id in ids]
    path = Path(state.checkpointer.save_dir) / "model_nonfinite.pth"
    shown = ", ".join(f"{name} {value}" for name, value in values.items())
    raise NonFiniteLossError(
        f"The loss is not finite at iteration {iteration}: {shown}; image ids {suspects}. The state before this "
        f"iteration is in {path}, which is not resumed from. Look at these images, lower "
        "SOLVER.BASE_LR or lengthen SOLVER.WARMUP_ITERS."
    )


def _explain(error: Exception, guard: Guard) -> None:
    """Raise what is known by its message alone as what it is."""
    text = str(error).partition("\n")[0]
    if isinstance(error, InputError):
        return
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _NO_MEMORY.search(text):
        raise InputError(
            f"Out of memory: {guard}: {text} Lower SOLVER.IMS_PER_BATCH, or raise SOLVER.ACCUMULATE_STEPS."
        ) from error
    if isinstance(error, dist.DistError) or re.search(r"gloo|NCCL|by peer|closed by remote", text, re.IGNORECASE):
        raise LostProcessError(
            f"Lost another process: {guard}: {text} If it left a message of its own, that one says why."
        ) from error
