"""Loss curves of every metrics file that a training can leave."""

import json
import re
import warnings

import numpy as np
import pytest

from fcos_core.commands.plot import main as plot_command
from fcos_core.errors import InputError
from fcos_core.visualize import curves
from fcos_core.visualize.curves import plot_losses, plot_runs

ROW = '{"iteration": 20, "loss": 1.5, "loss_cls": 0.5}\n'


@pytest.mark.parametrize(
    "content",
    [
        "".join(json.dumps({"iteration": i, "loss": 1 / i}) + "\n" for i in (20, 40, 40)),
        ROW,
        ROW + ROW[:25],
        "7\n" + ROW + 'null\n["loss"]\n',
        ROW + '{"iteration": 40, "loss": NaN, "loss_cls": null, "loss_side": 0.2}\n{"iteration": 60, "loss": "x"}\n',
        '{"iteration": 20, "loss": 0}\n{"iteration": 40, "loss": 0}\n',
        ROW + '{"iteration": 40, "loss": 1%s}\n' % ("0" * 400),
    ],
    ids=["resumed", "one line", "torn", "no objects", "other losses", "zero", "beyond floats"],
)
def test_a_curve_is_drawn_of_what_is_there(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_text(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_losses(tmp_path / "metrics.jsonl", tmp_path / "losses.png")
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("content", ["", "\n", ROW[:25], '{"iteration": 20, "lr": 0.1}\n', '{"loss": 1}\n'])
def test_a_file_without_a_loss_is_refused_with_a_sentence(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(InputError, match=r"metrics\.jsonl' holds no loss to draw"):
        plot_losses(tmp_path / "metrics.jsonl", tmp_path / "losses.png")


def test_an_evaluation_between_two_lines_leaves_no_gap(tmp_path):
    pictures = []
    for between in ("", '{"iteration": 20, "shapes_val/AP": 0.5}\n'):
        (tmp_path / "metrics.jsonl").write_text(ROW + between + ROW.replace("20", "40"))
        plot_losses(tmp_path / "metrics.jsonl", tmp_path / "losses.png")
        pictures.append((tmp_path / "losses.png").read_bytes())
    assert pictures[0] == pictures[1]


def write_run(folder, rows):
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    """Two runs of different lengths; the second, whose name matplotlib would read as a formula, was tested."""
    first = [{"iteration": i, "loss": 1 / i, "lr": 0.1} for i in (20, 40)]
    second = [{"iteration": i, "loss": 2 / i, "lr": 0.1} for i in (20, 40, 60, 80)]
    tests = [{"iteration": i, "val/AP": i / 100, "val/APs": -1.0} for i in (40, 80)]
    return [write_run(tmp_path / "first", first), write_run(tmp_path / "_a$b$c", second + tests)]


def test_several_runs_are_drawn_into_one_picture(tmp_path, runs, capsys):
    picture = tmp_path / "runs.svg"
    plot_command([*runs, "--out", str(picture), "--smooth", "3"])
    assert capsys.readouterr().out == f"Wrote {picture}\n"
    # Matplotlib draws letters as lines, and writes the text beside them as a comment.
    texts = re.findall(r"<!-- (.*) -->", picture.read_text())
    assert [text for text in texts if text in ("loss", "lr", "val/AP", "val/APs")] == ["loss", "lr", "val/AP"]
    assert "first" in texts and "_a$b$c" in texts


def test_the_metrics_can_be_chosen(tmp_path, runs):
    plot_runs([runs[1] + "/metrics.jsonl"], tmp_path / "runs.svg", ["val/*"])
    texts = re.findall(r"<!-- (.*) -->", (tmp_path / "runs.svg").read_text())
    assert "val/APs" in texts and "loss" not in texts


def test_a_resumed_run_counts_each_iteration_once(tmp_path):
    rows = [{"iteration": i, "loss": loss} for i, loss in ((20, 1.0), (40, 9.0), (40, 0.5), (60, None))]
    iterations, values = curves._read(write_run(tmp_path / "run", rows))["loss"]
    assert iterations.tolist() == [20, 40, 60]
    assert values[:2].tolist() == [1.0, 0.5] and np.isnan(values[2])


def test_smoothing_takes_the_mean_of_the_neighbours_there_are():
    assert curves._smoothed(np.array([0.0, 3.0, 9.0]), 3).tolist() == [1.5, 4.0, 6.0]
    # A gap stays one, and its neighbours' means leave it out.
    smoothed = curves._smoothed(np.array([1.0, np.nan, 3.0, 5.0]), 3)
    assert smoothed.tolist() == pytest.approx([1, np.nan, 4, 4], nan_ok=True)
    assert curves._smoothed(np.array([1.0, 2.0]), 9).tolist() == [1.5, 1.5]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--metrics", "val/AP75"], "No run of .* has a metric val/AP75: they hold loss, lr, val/AP, val/APs"),
        (["nowhere"], "'nowhere' does not exist: name the OUTPUT_DIR of a training or its metrics.jsonl"),
        (["--out", "runs.bmp"], r"runs\.bmp.*\.png, \.svg, \.pdf"),
        (["--out", "no/such/folder/runs.png"], "cannot be written .*set --out"),
        (["--smooth", "0"], "smoothing"),
    ],
)
def test_what_cannot_be_drawn_is_said(tmp_path, runs, words, sentence, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=sentence):
        plot_command([*runs, *words] if words[0].startswith("--") else [*words, *runs])
    assert not list(tmp_path.glob("*.png*"))


def test_a_run_that_has_just_begun_is_said(tmp_path):
    with pytest.raises(InputError, match="they hold no metrics yet"):
        plot_runs([write_run(tmp_path / "run", [])], tmp_path / "runs.png")
