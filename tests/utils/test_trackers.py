"""Trackers get what metrics.jsonl gets, resumed runs go on, and a tracker never ends a training."""

import json
import struct
import sys
import time

import pytest

from fcos_core.config import cfg
from fcos_core.engine.train import make_trackers, train
from fcos_core.errors import InputError
from fcos_core.utils import trackers
from fcos_core.utils.metrics_file import MetricsWriter, read_metrics
from fcos_core.utils.trackers import RUN_IDS, Tracker, TrackerSettings

ROWS = {20: {"loss": 1.5, "lr": 0.01}, 40: {"loss": 0.75, "lr": 0.01}, 60: {"loss": 0.5, "lr": 0.001}}
TEST_ROW = {"shapes val/AP@300": 0.25, "shapes val/APs": -1.0}


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def settings_of(*names):
    config = cfg.clone()
    config.merge_from_list(
        ["LOG.TRACKERS", names, "LOG.PROJECT", "cells", "MODEL.WEIGHT", "https://me:secret@host/w.pth"]
    )
    return make_trackers(config)


def train_twice(folder, name):
    """Write rows as a training does that is killed after iteration 50 and goes on from its checkpoint of 30."""
    for start, iterations in ((0, (20, 40)), (30, (40, 60))):
        writer = MetricsWriter(folder, start, settings_of(name))
        for iteration in iterations:
            writer.write(iteration, ROWS[iteration])
        if start:
            writer.write(60, TEST_ROW)
        elif name == "wandb":
            time.sleep(1.1)  # offline runs of one second would have the same folder
        writer.close()


def test_mlflow_has_every_metric_of_a_resumed_run(tmp_path):
    tracking = pytest.importorskip("mlflow.tracking")
    folder = tmp_path / "my run"
    train_twice(folder, "mlflow")
    client = tracking.MlflowClient(tracking_uri=(folder / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("cells").experiment_id])
    assert json.loads((folder / RUN_IDS).read_text()) == {"mlflow": run.info.run_id}
    assert (run.info.run_name, run.info.status) == ("my run", "FINISHED")
    loss = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "loss")}
    assert loss == {iteration: row["loss"] for iteration, row in ROWS.items()}
    # MLflow takes no "@" in a name.
    assert run.data.metrics == {**ROWS[60], "shapes val/AP_300": 0.25, "shapes val/APs": -1.0}
    assert run.data.params["SOLVER.MAX_ITER"] == "40000" and "secret" not in str(run.data.params)


def wandb_records(content):
    """Yield the records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    position, record = 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:  # a block ends with zeros where no further header fits
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


def test_wandb_has_every_metric_of_a_resumed_run(tmp_path):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    folder = tmp_path / "my run"
    train_twice(folder, "wandb")
    run_id = json.loads((folder / RUN_IDS).read_text())["wandb"]
    rows, runs = {}, []
    for path in sorted(folder.glob(f"wandb/offline-run-*/run-{run_id}.wandb")):
        for data in wandb_records(path.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("run"):
                runs.append(record.run)
            values = {
                ".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
            }
            if values:
                rows.setdefault(values["_step"], {}).update(values)
    assert {(run.run_id, run.project, run.display_name) for run in runs} == {(run_id, "cells", "my run")}
    config = {item.key: json.loads(item.value_json) for run in runs for item in run.config.update}
    assert config["SOLVER.MAX_ITER"] == 40000 and "secret" not in str(config)
    kept = {step: {key: value for key, value in row.items() if not key.startswith("_")} for step, row in rows.items()}
    assert kept == {**ROWS, 60: {**ROWS[60], **TEST_ROW}}


class Away:
    """A run whose server is away."""

    run_id, has = "7", 0

    def write(self, iteration, values):
        raise ConnectionError("no route to host")

    def close(self):
        raise ConnectionError("no route to host")


def test_a_resumed_run_gets_the_lines_that_it_lacks(tmp_path, monkeypatch):
    written = []

    class Run(Away):
        has = 20  # the process was killed before it had sent the line of iteration 40

        def write(self, iteration, values):
            written.append((iteration, dict(values)))

        def close(self):
            pass

    lines = "".join(json.dumps({"iteration": i, **row}) + "\n" for i, row in ROWS.items())
    (tmp_path / "metrics.jsonl").write_text(lines)
    monkeypatch.setattr(trackers, "_KINDS", {"mlflow": lambda *_: Run()})
    writer = MetricsWriter(tmp_path, 50, settings_of("mlflow"))
    writer.write(60, ROWS[60])
    writer.close()
    assert written == [(40, ROWS[40]), (60, ROWS[60])]


def test_a_server_that_is_away_after_the_start_is_told_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trackers, "_KINDS", {"mlflow": lambda *_: Away()})
    train_twice(tmp_path, "mlflow")
    assert [row["iteration"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [20, 40, 60, 60]
    # Once for each start of the training.
    assert caplog.text.count("LOG.TRACKERS 'mlflow' does not take metrics (no route to host)") == 2


def test_the_end_of_a_training_does_not_wait_long_for_a_server(monkeypatch, caplog):
    monkeypatch.setattr(trackers, "_LAST_SECONDS", 0.01)
    run = Away()
    run.write, run.close = lambda *_: time.sleep(0.5), lambda: None
    tracker = Tracker("mlflow", run)
    tracker.write(20, {"loss": 1.0})
    tracker.close()
    assert "has not taken all metrics in time" in caplog.text


def test_a_server_that_is_away_at_the_start_is_an_error(tmp_path, monkeypatch):
    pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"LOG\.TRACKERS 'mlflow' cannot start \(.*127\.0\.0\.1"):
        MetricsWriter(tmp_path, 0, settings_of("mlflow"))


@pytest.mark.parametrize("text", ["{", "[1]", '{"mlflow": 3}'])
def test_a_damaged_file_of_run_ids_is_an_error_that_names_it(tmp_path, text):
    (tmp_path / RUN_IDS).write_text(text)
    with pytest.raises(InputError, match=f"{RUN_IDS}.*delete it"):
        settings_of("mlflow").start(tmp_path, resumed=True)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_an_error_before_the_training(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    config = cfg.clone()
    config.merge_from_list(["OUTPUT_DIR", str(tmp_path), "LOG.TRACKERS", (name,), "MODEL.DEVICE", "cpu"])
    with pytest.raises(InputError, match=rf"LOG\.TRACKERS '{name}' needs the package {name}.*fcos_core\[{name}\]"):
        train(config)


def test_without_trackers_nothing_is_written(tmp_path):
    assert make_trackers(cfg) is None
    MetricsWriter(tmp_path, 0, TrackerSettings((), "cells", {})).close()
    assert not (tmp_path / RUN_IDS).exists()
