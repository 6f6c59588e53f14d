"""The training loop."""

import datetime
import logging
import math
import resource
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fcos_core.errors import InputError
from fcos_core.utils import comm
from fcos_core.utils.checkpoint import DetectronCheckpointer
from fcos_core.utils.metrics import MetricLogger, append_metrics

LOG_PERIOD = 20

logger = logging.getLogger(__name__)


def do_train(
    model: nn.Module,
    data_loader: Iterable,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    checkpointer: DetectronCheckpointer,
    device: torch.device | str,
    checkpoint_period: int,
    arguments: dict[str, Any],
) -> None:
    """Train to the end of `data_loader`.

    Every LOG_PERIOD iterations a line is logged and an object added to metrics.jsonl beside the checkpoints;
    every `checkpoint_period` iterations model_NNNNNNN.pth is saved, and model_final.pth at the end.

    Args:
        model: images and targets to a dict of losses.
        data_loader: gives (ImageList, list of BoxList, dataset indices) an iteration.
        optimizer, scheduler: as `fcos_core.solver` makes them.
        checkpointer: saves the state.
        device: where the model is.
        checkpoint_period: iterations between checkpoints.
        arguments: {"iteration": iterations already trained}; counted up, and saved in every checkpoint.

    Raises:
        InputError: a loss is not finite. The weights before it are saved for inspection.
    """
    logger.info("Start training")
    model.train()
    meters = MetricLogger()
    max_iter = arguments["iteration"] + len(data_loader)
    first = arguments["iteration"] + 1
    start = end = time.perf_counter()
    for iteration, (images, targets, indices) in enumerate(_batches(data_loader, checkpointer, arguments), first):
        data_time = time.perf_counter() - end
        scheduler.step()
        losses = model(images.to(device), [target.to(device) for target in targets])
        values = _over_processes(losses)
        if not math.isfinite(sum(values.values())):
            _stop(iteration, values, _image_ids(data_loader, indices), checkpointer)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        arguments["iteration"] = iteration

        batch_time = time.perf_counter() - end
        end = time.perf_counter()
        meters.update(loss=sum(values.values()), **values, time=batch_time, data=data_time)
        if iteration % LOG_PERIOD == 0 or iteration == max_iter:
            _log(iteration, max_iter, meters, optimizer, checkpointer.save_dir)
        if iteration % checkpoint_period == 0:
            checkpointer.save(f"model_{iteration:07d}", **arguments)
        if iteration == max_iter:
            checkpointer.save("model_final", **arguments)
    seconds = time.perf_counter() - start
    per_iteration = seconds / max(max_iter - first + 1, 1)
    logger.info("Total training time: %s (%.4f s / it)", datetime.timedelta(seconds=int(seconds)), per_iteration)


def _batches(data_loader: Iterable, checkpointer: DetectronCheckpointer, arguments: dict[str, Any]) -> Iterator:
    """The loader's batches; an image that cannot be read does not cost what was trained before it."""
    try:
        yield from data_loader
    except InputError:
        if arguments["iteration"]:
            checkpointer.save(f"model_{arguments['iteration']:07d}", **arguments)
        raise


def _over_processes(losses: dict[str, Tensor]) -> dict[str, float]:
    """Losses of the whole batch; normalizers are global, so that their mean over the processes is it."""
    total = comm.all_reduce_sum(torch.stack(list(losses.values())).detach()) / comm.get_world_size()
    return dict(zip(losses, total.tolist(), strict=True))


def _log(iteration: int, max_iter: int, meters: MetricLogger, optimizer: torch.optim.Optimizer, folder: str) -> None:
    if not comm.is_main_process():
        return
    lr = optimizer.param_groups[0]["lr"]
    memory = _peak_memory_mb()
    eta = datetime.timedelta(seconds=int(meters.meters["time"].global_avg * (max_iter - iteration)))
    line = [f"eta: {eta}", f"iter: {iteration}", str(meters), f"lr: {lr:.6f}", f"max mem: {memory:.0f}"]
    logger.info(meters.delimiter.join(line))
    if folder:
        append_metrics(Path(folder) / "metrics.jsonl", iteration=iteration, **meters.medians(), lr=lr, max_mem=memory)


def _peak_memory_mb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _image_ids(data_loader: Any, indices: Iterable[int]) -> list[int]:
    # A loader of somebody's own may know its images by index alone.
    image_id = getattr(getattr(data_loader, "dataset", None), "image_id", int)
    return [image_id(index) for index in indices]


def _stop(iteration: int, losses: dict[str, float], image_ids: list[int], checkpointer: DetectronCheckpointer) -> None:
    checkpointer.save("model_nonfinite", tag=False, iteration=iteration - 1)
    shown = ", ".join(f"{name} {value}" for name, value in losses.items())
    raise InputError(
        f"The loss is not finite at iteration {iteration}: {shown}; image ids {image_ids}. The weights before this "
        f"iteration are in {Path(checkpointer.save_dir) / 'model_nonfinite.pth'}. Look at these images, lower "
        "SOLVER.BASE_LR or lengthen SOLVER.WARMUP_ITERS."
    )
