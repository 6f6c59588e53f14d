"""Write the metrics of a training to experiment trackers: Weights & Biases and MLflow."""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from fcos_core.errors import InputError
from fcos_core.utils.files import replacing
from fcos_core.utils.optional import import_optional

# File in OUTPUT_DIR with the ids of the runs.
RUN_IDS = "trackers.json"
# Seconds to wait at the end of a training for a tracker to take the last metrics.
_LAST_SECONDS = 60
# MLflow refuses other characters in the names of metrics, and longer values and more entries at once.
_NOT_IN_NAMES = re.compile(r"[^/\w.\- ]")
_MLFLOW_LETTERS, _MLFLOW_PARAMS = 500, 100

logger = logging.getLogger(__name__)


class Run(Protocol):
    """A run of a tracker, which has the metrics up to the iteration `has`.

    Its methods may wait for a server, and may raise anything.
    """

    run_id: str
    has: int

    def write(self, iteration: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class TrackerSettings:
    """The trackers of a training.

    Args:
        names: "wandb", "mlflow", each once.
        project: name of the project or experiment.
        config: key to value of the whole config.
    """

    names: tuple[str, ...]
    project: str
    config: Mapping[str, Any]

    def check_installed(self) -> None:
        """Raise InputError if the package of a tracker is missing."""
        for name in self.names:
            import_optional(name, name, f"LOG.TRACKERS '{name}'")

    def start(self, folder: Path, resumed: bool) -> list[Tracker]:
        """Start the runs of the training in `folder`, or continue those of a `resumed` one, whose ids it holds.

        Raises:
            InputError: a package is missing, or a tracker cannot start.
        """
        path = folder / RUN_IDS
        ids = _read_ids(path) if resumed and path.is_file() else {}
        trackers: list[Tracker] = []
        for name in self.names:
            try:
                run = _KINDS[name](self, folder, ids.get(name))
            except Exception as error:  # each package, and each library under it, has errors of its own
                for tracker in trackers:
                    tracker.close()
                if isinstance(error, InputError):
                    raise
                gone = f"delete '{path}' if its run is gone, " if name in ids else ""
                raise InputError(
                    f"LOG.TRACKERS '{name}' cannot start ({error}): mend its settings, {gone}or take it out of "
                    "LOG.TRACKERS."
                ) from error
            ids[name] = run.run_id
            trackers.append(Tracker(name, run))
        if ids:
            with replacing(str(path)) as file:
                file.write(json.dumps(ids).encode())
        return trackers


class Tracker:
    """A run that gets its metrics from a thread, so that the training does not wait for a server.

    Metrics that the run does not take are lost to it, and the log says so once.
    """

    def __init__(self, name: str, run: Run) -> None:
        self._name, self._run, self.has = name, run, run.has
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A thread that waits for a server does not keep the process from leaving.
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        self._jobs.put(partial(self._run.write, iteration, dict(values)))

    def close(self) -> None:
        """Wait until everything is written, but not long."""
        self._jobs.put(self._run.close)
        self._jobs.put(None)
        self._thread.join(_LAST_SECONDS)
        if self._thread.is_alive():
            logger.warning("LOG.TRACKERS '%s' has not taken all metrics in time: metrics.jsonl has them.", self._name)

    def _work(self) -> None:
        warned = False
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:  # of any kind: the training goes on without its tracker
                if not warned:
                    logger.warning(
                        "LOG.TRACKERS '%s' does not take metrics (%s): the training goes on, and metrics.jsonl has "
                        "them.",
                        *(self._name, error),
                    )
                warned = True


class _WandbRun:
    """A run of Weights & Biases; its own settings apply, such as WANDB_MODE=offline, which writes to OUTPUT_DIR."""

    def __init__(self, settings: TrackerSettings, folder: Path, run_id: str | None) -> None:
        wandb = import_optional("wandb", "wandb", "LOG.TRACKERS 'wandb'")
        self.run_id = run_id or secrets.token_hex(4)
        self._run = wandb.init(
            project=settings.project,
            name=_run_name(folder),
            id=self.run_id,
            resume="allow",
            dir=str(folder),
            config=dict(settings.config),
            # The lines that the training prints are not sent; log.txt has them.
            settings=wandb.Settings(console="off", silent=True, finish_timeout=_LAST_SECONDS),
        )
        # `step` is the next one; offline it is 0, and the server will drop the lines that it has already.
        self.has = self._run.step - 1

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=iteration)

    def close(self) -> None:
        self._run.finish()


class _MLflowRun:
    """A run of MLflow at MLFLOW_TRACKING_URI; without that variable in the folder OUTPUT_DIR/mlruns."""

    def __init__(self, settings: TrackerSettings, folder: Path, run_id: str | None) -> None:
        tracking = import_optional("mlflow.tracking", "mlflow", "LOG.TRACKERS 'mlflow'")
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            # MLflow's own default is a database, which the package mlflow-skinny cannot open.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (folder.absolute() / "mlruns").as_uri()
        # By default a request to a server that is away is repeated for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        self._client = tracking.MlflowClient(tracking_uri=uri)
        if run_id is None:
            self.run_id = self._new_run(settings, folder)
        else:
            self.run_id = run_id
            self._client.update_run(run_id, status="RUNNING")
        history = self._client.get_metric_history(self.run_id, "lr")
        self.has = max((point.step for point in history), default=0)

    def _new_run(self, settings: TrackerSettings, folder: Path) -> str:
        from mlflow.entities import Param

        experiment = self._client.get_experiment_by_name(settings.project)
        number = experiment.experiment_id if experiment else self._client.create_experiment(settings.project)
        run_id: str = self._client.create_run(number, run_name=_run_name(folder)).info.run_id
        params = [Param(key, str(value)[:_MLFLOW_LETTERS]) for key, value in settings.config.items()]
        for start in range(0, len(params), _MLFLOW_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + _MLFLOW_PARAMS])
        return run_id

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_NOT_IN_NAMES.sub("_", name), value, now, iteration) for name, value in values.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self.run_id)


_KINDS: dict[str, Callable[[TrackerSettings, Path, str | None], Run]] = {"wandb": _WandbRun, "mlflow": _MLflowRun}


def _read_ids(path: Path) -> dict[str, str]:
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"'{path}' is not JSON ({error}): restore it, or delete it to begin new runs.") from error
    if not isinstance(ids, dict) or not all(isinstance(run_id, str) for run_id in ids.values()):
        raise InputError(f"'{path}' does not name a run for each tracker: restore it, or delete it to begin new runs.")
    return ids


def _run_name(folder: Path) -> str:
    return folder.absolute().name
