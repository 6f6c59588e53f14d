"""Loss curves of every metrics file that a training can leave."""

import json
import warnings

import pytest

from fcos_core.errors import InputError
from fcos_core.visualize.curves import plot_losses

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
