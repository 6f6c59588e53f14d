"""The training loop."""

import contextlib
import functools
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fcos_core.data.worker_failures import explain_dead_workers
from fcos_core.engine.classes import label_training_data
from fcos_core.engine.prefetch import prefetch
from fcos_core.engine.snapshot import TrainingSnapshot
from fcos_core.engine.step import TrainingStep
from fcos_core.engine.training_log import TrainingLog
from fcos_core.engine.watchdog import Watchdog
from fcos_core.errors import InputError, LostProcessError
from fcos_core.utils import comm
from fcos_core.utils.folder_lock import FolderLock, locked
from fcos_core.utils.trackers import TrackerSettings
from fcos_core.weights.checkpointer import DetectronCheckpointer, unwrapped

# Messages without an exception type of their own: of PyTorch's CPU allocator and oneDNN, and of gloo and NCCL.
_OUT_OF_MEMORY = re.compile("can't allocate memory|could not create a (primitive|memory)")
_LOST_PROCESS = re.compile(r"gloo|NCCL|by peer|closed by remote", re.IGNORECASE)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingOptions:
    """Options of `do_train` beyond its published arguments.

    Attributes:
        seed: at least 0; the random numbers of an iteration follow from seed, iteration and rank.
        log_period, eval_period: iterations between log lines, and between evaluations before the last; 0: none.
        timeout: seconds that a step may take, including waiting for other processes or for data.
        step: computes gradients and updates the model; None: `TrainingStep` with its defaults.
        average: moving average of the weights, updated every iteration; also among the checkpointer's `others`.
        evaluate: tests the model and returns metrics by name; its argument is True after the last iteration.
        trackers: experiment trackers that get the metrics.
    """

    seed: int = 0
    log_period: int = 20
    timeout: float = 1800
    step: TrainingStep | None = None
    average: AveragedModel | None = None
    evaluate: Callable[[bool], dict[str, float]] | None = None
    eval_period: int = 0
    trackers: TrackerSettings | None = None


class NonFiniteLossError(InputError):
    """A loss is infinite or not a number."""


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

    Every log period adds a line to the log and an object to metrics.jsonl beside the checkpoints. Every
    `checkpoint_period` iterations model_NNNNNNN.pth is saved, and model_final.pth at the end. If an error, SIGTERM,
    SIGINT or SIGHUP ends the training, the last finished iteration is saved too; after a signal the process exits.

    Args:
        model: maps images and targets to a dict of losses, on `device`.
        data_loader: gives (images, list of BoxList, dataset indices) for each iteration.
        optimizer, scheduler, checkpointer: of the model, as `fcos_core.solver` and `fcos_core.weights` make them.
        device: the model's device.
        checkpoint_period: iterations between checkpoints.
        arguments: {"iteration": finished iterations, ...}; updated, and saved in every checkpoint.
        options: further options; None: their defaults.

    Raises:
        InputError: a loss is not finite, memory is too small, the data cannot be read, the checkpoints' folder cannot
            be written to, or another training writes to it.
        LostProcessError: another process exited.
    """
    options = options or TrainingOptions()
    step = options.step or TrainingStep(model, optimizer, device)
    first = arguments["iteration"] + 1
    if checkpointer.categories is None:
        label_training_data(checkpointer, getattr(data_loader, "dataset", None))
    model.train()
    with _locked_folder(checkpointer) as folder_lock:
        snapshot = TrainingSnapshot(checkpointer, arguments, folder_lock)
        with (
            Watchdog(snapshot.save_if_new, options.timeout) as watchdog,
            _saving_on_error(snapshot, watchdog),
            explain_dead_workers(),
        ):
            last, recent = first - 1 + len(data_loader), arguments.get("recent_values")
            folder, period = checkpointer.save_dir, options.log_period
            log = TrainingLog(folder, first, last, period, recent, folder_lock, options.trackers)
            _train(model, data_loader, step, scheduler, snapshot, checkpoint_period, options, watchdog, log)


def _locked_folder(checkpointer: DetectronCheckpointer) -> contextlib.AbstractContextManager[FolderLock | None]:
    saves = checkpointer.save_dir and checkpointer.save_to_disk
    return locked(checkpointer.save_dir) if saves else contextlib.nullcontext()


def _train(
    model: nn.Module,
    data_loader: Iterable,
    step: TrainingStep,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    snapshot: TrainingSnapshot,
    checkpoint_period: int,
    options: TrainingOptions,
    watchdog: Watchdog,
    log: TrainingLog,
) -> None:
    batches = prefetch(data_loader, step.device)
    logger.info("Start training")
    for iteration in range(log.first, log.max_iter + 1):
        if _evaluation_is_due(iteration - 1, options):
            _evaluate(model, iteration - 1, options, watchdog, log)
        log.start_iteration()
        watchdog.at(iteration, "data loading")
        images, targets, indices = next(batches)
        log.data_is_read()
        _seed_random_numbers(options.seed, iteration)
        scheduler.step()
        losses = step.compute_gradients(images, targets, functools.partial(watchdog.at, iteration))
        norm = step.clip_gradients()
        values = _mean_over_processes(losses)
        if not math.isfinite(sum(values.values())):
            _stop(iteration, values, losses, _image_ids(data_loader, indices), snapshot)
        if norm is not None:  # read only now, when the losses have made the device finish its work anyway
            values["grad_norm"] = norm.item()
        watchdog.at(iteration, "optimizer step")
        with snapshot.lock:  # a state without the line of its iteration would lose the line
            with snapshot.finishing(iteration):
                step.update()
                if options.average is not None:
                    options.average.update_parameters(unwrapped(model))
                log.count(values)
                snapshot.arguments["recent_values"] = log.recent()
            log.end_iteration(iteration, len(targets), scheduler.get_last_lr()[0])
        watchdog.at(iteration, "saving", timed=False)
        if iteration % checkpoint_period == 0:
            snapshot.save()
        if iteration == log.max_iter:
            snapshot.save("model_final")
    if options.evaluate is not None:
        _evaluate(model, log.max_iter, options, watchdog, log)
    log.finish()


def _evaluation_is_due(iteration: int, options: TrainingOptions) -> bool:
    # Checked before the next iteration: a training that resumes after `iteration` evaluates it too.
    return options.evaluate is not None and options.eval_period > 0 < iteration and iteration % options.eval_period == 0


def _evaluate(model: nn.Module, iteration: int, options: TrainingOptions, watchdog: Watchdog, log: TrainingLog) -> None:
    # An evaluation may take long. Where processes wait for each other, the process group's timeout applies.
    watchdog.at(iteration, "evaluation", timed=False)
    log.evaluated(iteration, options.evaluate(iteration == log.max_iter))
    model.train()


def _seed_random_numbers(seed: int, iteration: int) -> None:
    """Seed torch by seed, iteration and rank, so that a resumed run draws the same numbers."""
    words = np.random.SeedSequence((seed, iteration, comm.get_rank())).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0]))


def _mean_over_processes(losses: dict[str, Tensor]) -> dict[str, float]:
    """Compute the whole batch's losses: the mean over processes, which all divide by the same global normalizers."""
    total = comm.all_reduce_sum(torch.stack(list(losses.values()))) / comm.get_world_size()
    return dict(zip(losses, total.tolist(), strict=True))


def _image_ids(data_loader: Any, indices: Iterable[int]) -> list[int]:
    # The dataset of a user's own loader may have no image ids: use the indices then.
    image_id = getattr(getattr(data_loader, "dataset", None), "image_id", int)
    return [image_id(index) for index in indices]


def _stop(
    iteration: int, values: dict[str, float], own: dict[str, Tensor], image_ids: list[int], snapshot: TrainingSnapshot
) -> NoReturn:
    """Save the state for diagnosis; raise an error with the image ids of every process whose own loss is not finite."""
    snapshot.save("model_nonfinite", tag=False)
    finite = math.isfinite(sum(loss.item() for loss in own.values()))
    suspects = [image_id for ids in comm.all_gather_objects([] if finite else image_ids) for image_id in ids]
    path = Path(snapshot.checkpointer.save_dir) / "model_nonfinite.pth"
    shown = ", ".join(f"{name} {value}" for name, value in values.items())
    raise NonFiniteLossError(
        f"The loss is not finite at iteration {iteration}: {shown}; image ids {suspects}. The state before this "
        f"iteration is in {path}; a new start does not resume from it. Check these images, lower SOLVER.BASE_LR or "
        "raise SOLVER.WARMUP_ITERS."
    )


@contextlib.contextmanager
def _saving_on_error(snapshot: TrainingSnapshot, watchdog: Watchdog) -> Iterator[None]:
    """Save the last finished iteration if the block raises, and raise an error that tells the user the cause."""
    try:
        yield
    except NonFiniteLossError:
        # Earlier steps may have damaged the weights already: a new start resumes from an earlier checkpoint.
        raise
    except Exception as error:
        logger.error("Training ended: %s; %s.", watchdog, snapshot.save_if_new())
        if not isinstance(error, InputError):
            _raise_known_cause(error, str(watchdog))
        raise


def _raise_known_cause(error: Exception, where: str) -> None:
    """Raise an error for the user if `error` comes from exhausted memory or a lost process."""
    text = str(error).partition("\n")[0]
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _OUT_OF_MEMORY.search(text):
        raise InputError(
            f"Out of memory: {where}: {text} Lower SOLVER.IMS_PER_BATCH, or raise SOLVER.ACCUMULATE_STEPS."
        ) from error
    if isinstance(error, dist.DistError) or _LOST_PROCESS.search(text):
        raise LostProcessError(f"Lost another process: {where}: {text} See its own message for the cause.") from error
