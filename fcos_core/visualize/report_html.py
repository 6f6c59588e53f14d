"""Parts of a report: one HTML file without a link to anything outside, for screens, phones and paper."""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from PIL import Image

from fcos_core.utils.text import printable
from fcos_core.visualize.palette import COLOURS

_DASHES = ("", "6 3", "2 3", "8 3 2 3")
_PHOTO_QUALITY = 75
# A longer name of a class or a file is cut in the middle.
_LETTERS = 60

_STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{font:16px/1.45 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:68rem;margin:0 auto;padding:1rem}
h1{font-size:1.6rem;overflow-wrap:anywhere}h2{font-size:1.25rem;margin:2.2rem 0 .4rem;border-bottom:2px solid #0072b2}
h3{font-size:1rem;margin:1.2rem 0 .3rem}p,figcaption{overflow-wrap:anywhere;margin:.4rem 0}small,.note{color:#555}
.note{font-size:.9rem;max-width:46rem}.scroll{overflow:auto;max-width:100%}.tall{max-height:90vh}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right;vertical-align:middle;white-space:nowrap}
th{background:#f3f3f3}th:first-child,td:first-child{text-align:left;min-width:7rem;max-width:22rem;overflow-wrap:anywhere}
td:first-child,.worded td:last-child{white-space:normal}.worded :is(th,td):last-child{text-align:left}
svg{display:block;max-width:100%;height:auto}svg text{font-family:system-ui,sans-serif}.chart{width:38rem}
.spark{width:4.5rem;height:2.2rem;max-width:none}figure{margin:0 0 1.4rem;break-inside:avoid}
.pair{display:flex;flex-wrap:wrap;gap:.6rem}.pair>div{flex:1 1 18rem;max-width:34rem}.pair p{font-size:.9rem}
.examples{display:flex;flex-wrap:wrap;gap:1rem}.examples figure{flex:0 1 15rem;font-size:.85rem}
.examples svg{max-height:15rem}.photo rect{fill:none;vector-effect:non-scaling-stroke;stroke-width:2.5}
.photo rect.under{stroke:#fff;stroke-width:5;
stroke-opacity:.75}.right{stroke:#0072b2}.wrong{stroke:#d55e00}.missed{stroke:#d55e00;stroke-dasharray:7 4}
.crowd{stroke:#000;stroke-dasharray:2 3}.photo text{fill:#000;stroke:#fff;paint-order:stroke;stroke-linejoin:round}
.key{display:inline-block;width:1.6rem;border-top:3px solid;vertical-align:middle;margin:0 .3rem 0 .8rem}
.matrix th,.matrix td{padding:.1rem .25rem;border:1px solid #e4e4e4;text-align:center;min-width:1.6rem;max-width:none}
.matrix td{font-size:.75rem;white-space:nowrap}.matrix tbody th{position:sticky;left:0;text-align:left;font-weight:400;
max-width:9rem;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.matrix thead th{position:sticky;top:0;z-index:1}.matrix thead th+th{writing-mode:vertical-rl;
transform:rotate(180deg);max-height:9rem;overflow:hidden;text-align:left;font-weight:400}
.dense td{font-size:.55rem;padding:0}.dense th{font-size:.65rem;padding:0 .15rem}.dense th,.dense td{min-width:1.15rem}
@media(max-width:30rem){body{padding:.6rem;font-size:15px}th,td{padding:.2rem .35rem}.matrix tbody th{max-width:5.5rem}}
@media print{body{max-width:none;font-size:10pt;padding:0}.scroll{overflow:visible;max-height:none}h2{break-after:avoid}
tr{break-inside:avoid}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}.matrix th{position:static}

.dense{table-layout:fixed;width:100%}.dense thead th:first-child{width:3.5rem;white-space:normal}
.dense th,.dense td{min-width:0;padding:0;font-size:3.5pt;line-height:1.1}.dense th{font-size:4.5pt}}
"""
# Even if a name of a class or a file were not escaped, nothing would be loaded or run.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Mark(NamedTuple):
    """A box on a photograph: x, y, width and height in its pixels, a label, and "right", "wrong", "missed", "crowd"."""

    box: tuple[float, float, float, float]
    label: str
    kind: str


def page(title: str, parts: Iterable[str]) -> str:
    """Return the whole file."""
    shown = text(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(printable(title))}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">\n'
        f"<style>{_STYLE}</style></head>\n<body><h1>{shown}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def text(value: Any) -> str:
    """Escape any text; a text from right to left does not turn the text around it.

    A long text is cut in the middle; the whole shows when a pointer rests on it.
    """
    whole = printable(value)
    tip = f' title="{escape(whole)}"' if len(whole) > _LETTERS else ""
    return f"<bdi{tip}>{escape(_short_name(whole, _LETTERS))}</bdi>"


def note(sentences: str) -> str:
    """Return a paragraph of explanation."""
    return f'<p class="note">{sentences}</p>'


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Return a table of cells that are HTML already; the last column of the kind "worded" is text, not a number."""
    head = "".join(f"<th>{header}</th>" for header in headers)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    top = f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
    return f"{top}<tbody>\n{body}\n</tbody></table></div>"


def number(value: float | None, digits: int = 3) -> str:
    """Write a metric; a dash for None and for -1, which marks a metric that is not defined."""
    return "-" if value is None or value == -1 else f"{value:.{digits}f}"


def matrix(names: Sequence[str], counts: Sequence[Sequence[int]], first: str, last_row: str, last_column: str) -> str:
    """Return a table of counts with rows and columns `names`, and one more of each; shades are shares of a row."""
    columns, rows = ([*map(text, names), last] for last in (last_column, last_row))
    head = "".join(f"<th>{name}</th>" for name in columns)
    lines = []
    for position, (name, row) in enumerate(zip(rows, counts, strict=True)):
        total, cells = max(sum(row), 1), []
        for column, count in enumerate(row):
            # A count of at least one is always to be seen.
            share = round(0.08 + 0.72 * count / total, 2)
            colour = "0,114,178" if column == position < len(names) else "213,94,0"
            style = f' style="background:rgba({colour},{share})"' if count else ""
            cells.append(f"<td{style}>{count or ''}</td>")
        lines.append(f"<tr><th>{name}</th>{''.join(cells)}</tr>")
    kind = "matrix dense" if len(names) > 15 else "matrix"
    return (
        f'<div class="scroll tall"><table class="{kind}"><thead><tr><th>{first}</th>{head}</tr></thead><tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def curves(lines: Mapping[str, Sequence[float]], x_label: str, y_label: str) -> str:
    """Draw curves over the unit square; each has values in 0..1 at places that divide the x axis evenly."""
    left, top, width, height = 46, 10, 400, 260
    parts = []
    for tick in range(0, 11, 2):
        x, y = left + width * tick / 10, top + height * (1 - tick / 10)
        parts.append(f'<path d="M{left} {y}h{width}M{x} {top}v{height}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{tick / 10:g}</text>')
        parts.append(f'<text x="{x}" y="{top + height + 16}" text-anchor="middle">{tick / 10:g}</text>')
    middle = top + height / 2
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 34}" text-anchor="middle">{x_label}</text>')
    parts.append(f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{y_label}</text>')
    for place, (name, values) in enumerate(lines.items()):
        style = f'stroke="{COLOURS[place]}" stroke-dasharray="{_DASHES[place]}"'
        parts.append(f'<path d="{_path(values, left, top, width, height)}" fill="none" stroke-width="2" {style}/>')
        y = top + height + 54 + 18 * place
        parts.append(
            f'<path d="M{left} {y - 4}h30" stroke-width="2" {style}/><text x="{left + 38}" y="{y}">{name}</text>'
        )
    return _chart(left + width + 8, top + height + 46 + 18 * len(lines), parts)


def spark(values: Sequence[float], dot: tuple[float, float] | None) -> str:
    """Draw a small curve of values in 0..1, and a dot at (x, y) of the unit square."""
    point = f'<circle cx="{1 + dot[0] * 68:.1f}" cy="{1 + (1 - dot[1]) * 32:.1f}" r="3" fill="#d55e00"/>' if dot else ""
    frame = '<path d="M1 1h68v32h-68z" fill="none" stroke="#ccc"/>'
    line = f'<path d="{_path(values, 1, 1, 68, 32)}" fill="none" stroke="#0072b2" stroke-width="1.5"/>'
    return f'<svg class="spark" viewBox="0 0 70 34" role="img">{frame}{line}{point}</svg>'


def bars(labels: Sequence[str], series: Mapping[str, Sequence[int]], x_label: str) -> str:
    """Draw counts as bars beside each other on a logarithmic scale; `labels` are the edges of the bins."""
    left, top, width, height = 46, 10, 400, 180
    decades = max(math.ceil(math.log10(max(1, *(max(values) for values in series.values())) + 1)), 1)
    parts = []
    for decade in range(decades + 1):
        y = top + height * (1 - math.log10(10**decade + 1) / math.log10(10**decades + 1))
        parts.append(f'<path d="M{left} {y:.1f}h{width}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 4}" y="{y + 4:.1f}" text-anchor="end">{_short(10**decade)}</text>')
    bins = len(labels) - 1
    step, bar = width / bins, width / bins * 0.86 / len(series)
    for place, (name, values) in enumerate(series.items()):
        for position, value in enumerate(values):
            tall = height * math.log10(value + 1) / math.log10(10**decades + 1)
            x, y = left + step * (position + 0.07) + bar * place, top + height - tall
            tip = f"{name}, {labels[position]} to {labels[position + 1]}: {value}"
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar:.1f}" height="{tall:.1f}" fill="{COLOURS[place]}">'
                f"<title>{tip}</title></rect>"
            )
        x = left + place * 400 / len(series)
        parts.append(f'<rect x="{x}" y="{top + height + 44}" width="12" height="12" fill="{COLOURS[place]}"/>')
        parts.append(f'<text x="{x + 17}" y="{top + height + 54}">{name}</text>')
    every = math.ceil(len(labels) / 14)
    for position, label in enumerate(labels[::every]):
        x = left + step * position * every
        parts.append(f'<text x="{x:.1f}" y="{top + height + 15}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 33}" text-anchor="middle">{x_label}</text>')
    return _chart(left + width + 14, top + height + 62, parts)


def photo(
    name: str, size: tuple[float, float], marks: Sequence[Mark], image: Image.Image | None = None, letters: int = 30
) -> str:
    """Draw `marks` on a photograph of `size`, its width and height in the pixels of the marks.

    `image` is the photograph in any size. It stands once in the file: without it, the one called `name` is shown again.
    Its longer side is as long as `letters` letters are high.
    """
    width, height = size
    if image is None:
        picture = f'<use href="#{name}"/>'
    else:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=_PHOTO_QUALITY)
        data = base64.b64encode(file.getvalue()).decode()
        link = f'href="data:image/jpeg;base64,{data}"'
        picture = f'<image id="{name}" width="{width:g}" height="{height:g}" preserveAspectRatio="none" {link}/>'
    letter = max(width, height) / letters
    # Errors are drawn last, so that nothing hides them.
    ordered = sorted(marks, key=lambda mark: mark.kind in ("wrong", "missed"))
    drawn = "".join(_rectangle(mark) for mark in ordered) + "".join(_label(mark, letter, width) for mark in ordered)
    return f'<svg class="photo" viewBox="0 0 {width:g} {height:g}" role="img">{picture}{drawn}</svg>'


def key(names: Mapping[str, str]) -> str:
    """Return the meaning of the kinds of marks."""
    dashes = {"missed": "dashed", "crowd": "dotted"}
    items = [
        f'<span class="key {kind}" style="border-color:{"#000" if kind == "crowd" else COLOURS[kind != "right"]};'
        f'border-top-style:{dashes.get(kind, "solid")}"></span>{name}'
        for kind, name in names.items()
    ]
    return f"<p>{''.join(items)}</p>"


def _rectangle(mark: Mark) -> str:
    x, y, width, height = (f"{value:.6g}" for value in mark.box)
    place = f'x="{x}" y="{y}" width="{width}" height="{height}"'
    tip = f"<title>{escape(printable(mark.label))}</title>"
    return f'<rect class="under" {place}/><rect class="{mark.kind}" {place}>{tip}</rect>'


def _label(mark: Mark, letter: float, room: float) -> str:
    x, y, width, _ = mark.box
    name = _short_name(printable(mark.label), 24)
    # A label that has no room on the right of its box's left edge ends at the right edge.
    x, anchor = (x + letter / 10, "start") if x + len(name) * letter * 0.6 < room else (min(x + width, room), "end")
    y = y - letter / 4 if y > letter * 1.1 else y + letter
    style = f'font-size="{letter:.3g}" stroke-width="{letter / 5:.3g}" text-anchor="{anchor}"'
    # Isolated, a name that runs from right to left leaves its score where it is.
    return f'<text x="{x:.6g}" y="{y:.6g}" {style}>\u2068{escape(name)}\u2069</text>'


def _path(values: Sequence[float], left: float, top: float, width: float, height: float) -> str:
    points = [f"{left + width * i / (len(values) - 1):.1f} {top + height * (1 - v):.1f}" for i, v in enumerate(values)]
    return "M" + "L".join(points)


def _chart(width: float, height: float, parts: list[str]) -> str:
    return f'<svg class="chart" viewBox="0 0 {width} {height}" font-size="12" role="img">{"".join(parts)}</svg>'


def _short_name(name: str, letters: int) -> str:
    return name if len(name) <= letters else f"{name[: letters * 2 // 3]}…{name[-letters // 3 :]}"


def _short(value: int) -> str:
    for size, letter in ((10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value // size}{letter}"
    return str(value)
