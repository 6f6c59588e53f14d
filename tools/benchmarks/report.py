"""Write tables as Markdown and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.timing import Timing
from fcos_core.utils.collect_env import environment

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A table of measurements.

    Attributes:
        title: name of the measurement.
        note: sizes, device and the meaning of the columns.
        rows: per row column to value, the same columns in each row; None is printed as "-".
    """

    title: str
    note: str
    rows: list[Row]

    def __str__(self) -> str:
        """Return Markdown with aligned columns."""
        columns = list(self.rows[0])
        cells = [columns, *([_text(row[column]) for column in columns] for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
        numeric = [any(isinstance(row[column], (int, float)) for row in self.rows) for column in columns]
        lines = [
            "| " + " | ".join(_pad(c, w, n) for c, w, n in zip(row, widths, numeric, strict=True)) + " |"
            for row in cells
        ]
        rule = ["-" * (w + 1) + ":" if n else "-" * (w + 2) for w, n in zip(widths, numeric, strict=True)]
        lines.insert(1, "|" + "|".join(rule) + "|")
        return "\n".join([f"### {self.title}", "", self.note, "", *lines])


def milliseconds(timing: Timing) -> Row:
    """Return the columns of a time: the median and the quartiles."""
    return {"ms": 1e3 * timing.median, "25%": 1e3 * timing.lower, "75%": 1e3 * timing.upper}


def images_per_second(timing: Timing, images: int) -> Row:
    """Return the columns of a rate: at the median time, and at the slower and the faster quartile."""
    return {"images/s": images / timing.median, "25%": images / timing.upper, "75%": images / timing.lower}


def speedup(timings: Mapping[str, Timing], name: str, baselines: Sequence[str]) -> float:
    """Return the speed of `name` relative to the fastest of the baselines, by the medians."""
    return min(timings[baseline].median for baseline in baselines) / timings[name].median


def write_json(path: Path, settings: Any, tables: Mapping[str, Sequence[Table]]) -> None:
    """Write machine, versions, command line, settings (a dataclass) and the tables by the name of their measure."""
    content = {
        "environment": environment(),
        "settings": asdict(settings),
        "tables": {name: [asdict(table) for table in made] for name, made in tables.items()},
    }
    path.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        # Three significant digits, and two decimals from 0.1 to 10.
        decimals = next((n for n, least in enumerate((100, 10, 0.1)) if abs(value) >= least), None)
        return f"{value:.3g}" if decimals is None else f"{value:,.{decimals}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _pad(cell: str, width: int, numeric: bool) -> str:
    return cell.rjust(width) if numeric else cell.ljust(width)
