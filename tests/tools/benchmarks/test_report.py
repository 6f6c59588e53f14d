"""Tables as text and as JSON."""

import json

import torch

from benchmarks.growth import growth_rows
from benchmarks.report import Table, images_per_second, milliseconds, write_json
from benchmarks.settings import Settings, default_settings
from benchmarks.timing import Timing

TABLE = Table(
    "Latency",
    "One image.",
    [
        {"contender": "plain", "ms": 1234.56, "x plain": 0.8654, "kept": None, "boxes": 12000},
        {"contender": "ours", "ms": 0.01234, "x plain": 100.049, "kept": 12.34, "boxes": 3},
    ],
)


def test_text_is_an_aligned_markdown_table():
    assert str(TABLE).splitlines() == [
        "### Latency",
        "",
        "One image.",
        "",
        "| contender |     ms | x plain | kept |  boxes |",
        "|-----------|-------:|--------:|-----:|-------:|",
        "| plain     |  1,235 |    0.87 |    - | 12,000 |",
        "| ours      | 0.0123 |     100 | 12.3 |      3 |",
    ]


def test_json_has_machine_settings_and_tables(tmp_path):
    settings = Settings(**default_settings("cpu"), device=torch.device("cpu"))
    write_json(tmp_path / "out.json", settings, {"latency": [TABLE]})
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["tables"]["latency"][0]["rows"] == TABLE.rows
    assert content["environment"]["PyTorch"] == torch.__version__
    assert "cores" in content["environment"]["CPU"] and content["environment"]["Command"]
    assert content["settings"]["device"] == "cpu" and content["settings"]["height"] == settings.height


def test_rates_swap_the_quartiles_of_the_time():
    timing = Timing((1.0, 2.0, 4.0, 8.0, 16.0))
    assert images_per_second(timing, 8) == {"images/s": 2.0, "25%": 1.0, "75%": 4.0}
    assert milliseconds(timing) == {"ms": 4000.0, "25%": 2000.0, "75%": 8000.0}


def test_growth_exponents_of_power_laws():
    # Time grows with the square of the size, memory with its square root.
    rows = growth_rows("pixels", {100: 1e-3, 400: 16e-3}, {100: 10, 400: 20}, "GB")
    assert rows[0]["time exponent"] is None and rows[0]["ms"] == 1.0
    assert rows[1] == {"pixels": 400, "ms": 16.0, "time exponent": 2.0, "peak GB": 2e-8, "memory exponent": 0.5}
