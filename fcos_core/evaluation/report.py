"""Write the results of a test as one HTML file, which opens anywhere without a network."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from fcos_core.data.coco import COCODataset
from fcos_core.data.image_file import UnreadableImageError
from fcos_core.evaluation.analysis import (
    DEFAULT_THRESHOLD,
    KINDS,
    Best,
    confusion_matrix,
    errors_by_kind,
    errors_per_image,
    shown,
    sizes,
)
from fcos_core.evaluation.matching import ON_CROWD, Bools, Floats, Ints, Matching
from fcos_core.utils.files import replacing
from fcos_core.visualize import report_html as html
from fcos_core.visualize.report_html import Mark, note, number, table, text

# Files beside bbox.json.
THRESHOLDS, REPORT = "thresholds.json", "report.html"
_WORST, _EXAMPLES, _PHOTO_SIDE, _EXAMPLE_SIDE = 8, 2, 640, 240
# A larger matrix would make a browser slow.
_MATRIX_CLASSES = 100
_SIZES = (0, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_METRICS = {
    "AP": "mean of the classes and of the IoUs 0.50, 0.55, ... 0.95",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "APs": "boxes below 32² pixels",
    "APm": "boxes from 32² to 96² pixels",
    "APl": "boxes above 96² pixels",
    "AR1": "recall with 1 detection an image and class, mean of the IoUs",
    "AR10": "recall with 10 detections",
    "AR100": "recall with 100 detections",
    "ARs": "recall of boxes below 32² pixels",
    "ARm": "recall of boxes from 32² to 96² pixels",
    "ARl": "recall of boxes above 96² pixels",
}
_KINDS = {
    "class": "best box of another class has an IoU of at least 0.5",
    "location": "best box of its class has an IoU from 0.1 to 0.5",
    "both": "none of the others: near a box, but of another class and too far off",
    "duplicate": "its box was found by a detection of a higher score",
    "background": "no box has an IoU above 0.1",
    "missed": "boxes that no detection finds, nor would if its class or its location were right",
}

logger = logging.getLogger(__name__)


def write_thresholds(path: Path, names: Sequence[str], best: Sequence[Best | None]) -> None:
    """Write {class name: score} of the best F-measures; a class without one is left out, and the log names it."""
    found = {name: entry.threshold for name, entry in zip(names, best, strict=True) if entry}
    with replacing(str(path)) as file:
        file.write(json.dumps(found, indent=1).encode())
    if lacking := [name for name in names if name not in found]:
        logger.info("No detection finds a box of %s: %s has no threshold for it.", ", ".join(lacking), path.name)


def write_report(
    path: Path,
    dataset: COCODataset,
    matching: Matching,
    best: Sequence[Best | None],
    metrics: Mapping[str, Mapping[str, float]],
    precision: Floats,
) -> None:
    """Write the report on a test of `dataset`.

    Args:
        path: the file; the name of its folder is the report's title.
        dataset: with annotations.
        matching, best: of its classes, in the order of their labels.
        metrics: as `evaluate` returns them.
        precision: (T, 101, C) of COCOeval for T IoUs from 0.5 on, over recalls 0, 0.01, ... 1; -1: not defined.
    """
    report = _Report(dataset, matching, list(best), metrics, precision)
    with replacing(str(path)) as file:
        file.write(html.page(f"Test on {path.parent.name}", report.parts()).encode(errors="backslashreplace"))
    logger.info("Wrote the report %s", path)


@dataclass(frozen=True)
class _Report:
    dataset: COCODataset
    matching: Matching
    best: list[Best | None]
    metrics: Mapping[str, Mapping[str, float]]
    precision: Floats

    @cached_property
    def names(self) -> list[str]:
        return [self.dataset.category_names[label - 1] for label in self.dataset.contiguous_to_category_id]

    @cached_property
    def shown(self) -> Bools:
        return shown(self.matching, self.best)

    @cached_property
    def index_of(self) -> dict[int, int]:
        return {self.dataset.image_id(index): index for index in range(len(self.dataset))}

    def parts(self) -> Iterator[str]:
        yield from self._overview()
        yield from self._classes()
        yield from self._confusions()
        yield from self._histograms()
        yield from self._errors()
        yield from self._worst_images()

    def _overview(self) -> Iterator[str]:
        matching, crowds = self.matching, int(self.matching.crowd.sum())
        counts = f"{len(matching.image_ids)} images, {len(matching.crowd) - crowds} boxes" + (
            f" and {crowds} crowds, which count neither way" if crowds else ""
        )
        yield f"<p>{counts}, {len(self.names)} classes, {len(matching.score)} detections.</p>"
        yield "<h2>COCO metrics</h2>"
        rows = self.metrics["bbox"].items()
        yield table(
            ["metric", "value", "of"],
            [[name, number(value), _METRICS.get(name, "with more detections an image")] for name, value in rows],
            "worded",
        )
        yield note("As pycocotools computes them. -: there is no box of this kind.")

    def _classes(self) -> Iterator[str]:
        yield "<h2>Precision and recall</h2>"
        defined = self.precision[:, :, self.precision[0, 0] > -1]
        if defined.size:
            lines = {"IoU 0.50": defined[0], "IoU 0.75": defined[5], "mean of IoUs 0.50 to 0.95": defined.mean(axis=0)}
            yield html.curves({name: line.mean(axis=1).tolist() for name, line in lines.items()}, "recall", "precision")
            yield note("Means of the classes. The area below each curve is AP50, AP75 and AP.")
        yield "<h2>Classes</h2>"
        yield table(
            ["class", "boxes", "AP", "AP50", "threshold", "precision", "recall", "F", "precision over recall"],
            map(self._class_row, range(len(self.names))),
        )
        yield note(
            "threshold: the score from which the detections of the class have the highest F-measure 2PR / (P + R) at "
            f"an IoU of 0.5; of equal ones the highest score. {THRESHOLDS} beside this file has these scores. -: the "
            "class has no box, or no detection finds one. The small curves are for an IoU of 0.5; the dot is the "
            "threshold."
        )

    def _class_row(self, number_of_class: int) -> list[str]:
        name, best = self.names[number_of_class], self.best[number_of_class]
        boxes = int((self.matching.truth.category[~self.matching.crowd] == number_of_class).sum())
        curve = self.precision[0, :, number_of_class]
        ap50 = float(curve.mean()) if boxes else -1
        values = (self.metrics["AP per class"][name], ap50, *(astuple(best) if best else (None,) * 4))
        drawn = html.spark(curve.tolist(), (best.recall, best.precision) if best else None) if boxes else number(None)
        return [text(name), str(boxes), *map(number, values), drawn]

    def _confusions(self) -> Iterator[str]:
        yield "<h2>Confusion matrix</h2>"
        counts = confusion_matrix(self.matching, self.shown, len(self.names))
        yield note(
            "Rows: annotated class; columns: detected class. Detections of at least the threshold of their class count "
            f"({DEFAULT_THRESHOLD} for a class without one), at an IoU of 0.5. First they find boxes of their class; "
            "then the others, best score first, take the box of another class that is left and overlaps most. "
            "Shades: share of the row."
        )
        kept = np.arange(len(self.names))
        if len(kept) > _MATRIX_CLASSES:
            wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
            kept = np.sort(np.argsort(-wrong[:-1], kind="stable")[:_MATRIX_CLASSES])
            yield note(f"Only the {_MATRIX_CLASSES} classes with the most errors of {len(self.names)} are shown.")
        rows = np.append(kept, len(self.names))
        names = [self.names[row] for row in kept]
        yield html.matrix(names, counts[np.ix_(rows, rows)].tolist(), "true \\ detected", "background", "missed")
        between = counts[:-1, :-1] * (1 - np.eye(len(self.names), dtype=np.int64))
        top = [divmod(int(place), len(self.names)) for place in np.argsort(-between, axis=None, kind="stable")[:10]]
        pairs = [[text(self.names[t]), text(self.names[d]), str(between[t, d])] for t, d in top if between[t, d]]
        if pairs:
            yield "<h3>Most frequent confusions</h3>" + table(["true class", "detected as", "times"], pairs)

    def _histograms(self) -> Iterator[str]:
        matching = self.matching
        yield "<h2>Scores</h2>"
        edges = np.linspace(0, 1, 21)
        kinds = {"true detections": matching.right, "false detections": matching.wrong}
        scores = matching.score.clip(0, 1)
        counts = {name: np.histogram(scores[rows], edges)[0].tolist() for name, rows in kinds.items()}
        yield html.bars([f"{edge:.2f}".rstrip("0").rstrip(".") for edge in edges], counts, "score")
        yield note("All detections at an IoU of 0.5, as COCO matches them, on a logarithmic scale.")
        yield "<h2>Box sizes</h2>"
        size, found = sizes(matching.truth.box), matching.is_found(self.shown)
        plain = ~matching.crowd
        kinds = {"found": found & plain, "missed": ~found & plain, "ground truth": plain}
        counts = {name: np.histogram(size[rows], [*_SIZES, np.inf])[0].tolist() for name, rows in kinds.items()}
        yield html.bars([*map(str, _SIZES), "…"], counts, "square root of the area, pixels")
        yield note("With the thresholds above. COCO calls boxes below 32 small and above 96 large.")

    def _errors(self) -> Iterator[str]:
        yield "<h2>Errors by kind</h2>"
        errors = errors_by_kind(self.matching, len(self.names))
        rows = [[kind, str(len(errors.rows[kind])), f"{errors.gains[kind]:+.3f}", _KINDS[kind]] for kind in KINDS]
        yield table(["kind", "number", "AP50 gain", "meaning"], rows, "worded")
        yield note(
            f"Of all detections, whatever their score; AP50 is {number(errors.ap50)}. Kinds and gains follow TIDE "
            "(Bolya et al., 2020): every false detection has the first kind that applies of location, class, "
            "duplicate, background, both. The gain is what AP50 would gain if the errors of this kind alone were "
            "mended: the best detection that is off a box which is not found, in class or in location, gets what it "
            "lacks, and the others of the kind are taken out; missed boxes are taken out of the ground truth. Gains "
            "do not add up."
        )
        examples = "".join(self._example(kind, row) for kind in KINDS for row in self._first(kind, errors.rows[kind]))
        yield f'<h3>Examples</h3><div class="examples">{examples}</div>'
        yield note("The highest scores, or the largest missed boxes, of different images. Blue: ground truth.")

    def _first(self, kind: str, rows: Ints) -> list[int]:
        """Return the first errors of different images."""
        image = (self.matching.truth if kind == "missed" else self.matching.found).image[rows]
        firsts: list[int] = rows[np.sort(np.unique(image, return_index=True)[1])][:_EXAMPLES].tolist()
        return firsts

    def _example(self, kind: str, row: int) -> str:
        matching, missed = self.matching, kind == "missed"
        boxes = matching.truth if missed else matching.found
        image_row, name = int(boxes.image[row]), self.names[boxes.category[row]]
        label = name if missed else f"{name} {matching.score[row]:.2f}"
        mark = Mark(tuple(boxes.box[row].tolist()), label, "missed" if missed else "wrong")
        truth = [] if missed else self._truth_marks(image_row, None)
        drawn = self._cut_out(f"{kind}{row}", image_row, [mark, *truth], [mark.box, *self._aim(kind, row)])
        caption = f"<b>{kind}</b>: {text(label)}, {self._title(image_row)}"
        return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"

    def _aim(self, kind: str, row: int) -> list[tuple[float, float, float, float]]:
        """Return the box that a detection should have found, if it is clear which."""
        rows = {"class": self.matching.other_box, "location": self.matching.own_box, "duplicate": self.matching.own_box}
        return [tuple(self.matching.truth.box[rows[kind][row]].tolist())] if kind in rows else []

    def _worst_images(self) -> Iterator[str]:
        yield "<h2>Worst images</h2>"
        errors = errors_per_image(self.matching, self.shown)
        worst = [row for row in np.argsort(-errors, kind="stable")[:_WORST].tolist() if errors[row]]
        yield note(
            "The images with the most errors: false detections plus missed boxes, with the thresholds above, at an IoU "
            "of 0.5. Left: ground truth; right: detections."
        )
        yield html.key({"right": "right", "wrong": "false detection", "missed": "missed box", "crowd": "crowd"})
        for row in worst:
            yield self._side_by_side(row, int(errors[row]))

    def _side_by_side(self, row: int, errors: int) -> str:
        matching = self.matching
        truth = self._truth_marks(row, matching.is_found(self.shown))
        rows = np.flatnonzero(self.shown & (matching.found.image == row)).tolist()
        kinds = {True: "right", False: "wrong"}
        found = [
            Mark(
                tuple(matching.found.box[i].tolist()),
                f"{self.names[matching.found.category[i]]} {matching.score[i]:.2f}",
                "crowd" if matching.match[i] == ON_CROWD else kinds[bool(matching.right[i])],
            )
            for i in reversed(rows)
        ]
        title = f"<figcaption>{self._title(row)}: {errors} errors</figcaption>"
        image = self._read(row)
        if isinstance(image, str):
            return f"<figure>{title}<p>{text(image)}</p></figure>"
        size = image.size
        image.thumbnail((_PHOTO_SIDE, _PHOTO_SIDE))
        missed, wrong = (sum(mark.kind in ("missed", "wrong") for mark in marks) for marks in (truth, found))
        left = f"{html.photo(f'image{row}', size, truth, image)}<p>boxes: {len(truth)}, missed: {missed}</p>"
        right = f"{html.photo(f'image{row}', size, found)}<p>detections: {len(found)}, false: {wrong}</p>"
        return f'<figure>{title}<div class="pair"><div>{left}</div><div>{right}</div></div></figure>'

    def _truth_marks(self, image_row: int, found: Bools | None) -> list[Mark]:
        """Return the boxes of an image; with `found`, those that it lacks are missed."""
        truth, marks = self.matching.truth, []
        for row in np.flatnonzero(truth.image == image_row).tolist():
            kind = "right" if found is None or found[row] else "missed"
            kind = "crowd" if self.matching.crowd[row] else kind
            marks.append(Mark(tuple(truth.box[row].tolist()), self.names[truth.category[row]], kind))
        return marks

    def _cut_out(self, name: str, row: int, marks: list[Mark], around: list[tuple[float, float, float, float]]) -> str:
        """Draw the part of an image around boxes, with room to see where it is."""
        image = self._read(row)
        if isinstance(image, str):
            return f"<p>{text(image)}</p>"
        x, y, width, height = np.array(around).T
        left, top, right, bottom = x.min(), y.min(), (x + width).max(), (y + height).max()
        margin = max(0.5 * max(right - left, bottom - top), 24)
        left, top = int(max(left - margin, 0)), int(max(top - margin, 0))
        left, top = min(left, image.width - 1), min(top, image.height - 1)
        right, bottom = min(int(right + margin), image.width), min(int(bottom + margin), image.height)
        part = image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        moved = [mark._replace(box=(mark.box[0] - left, mark.box[1] - top, *mark.box[2:])) for mark in marks]
        size = part.size
        moved = [mark for mark in moved if _is_inside(mark.box, size)]
        part.thumbnail((_EXAMPLE_SIDE, _EXAMPLE_SIDE))
        return html.photo(name, size, moved, part, letters=15)

    def _read(self, row: int) -> Image.Image | str:
        """Read an image; return a sentence if that is not possible."""
        index = self.index_of.get(int(self.matching.image_ids[row]))
        if index is None:
            return "This image is not in the dataset."
        try:
            return self.dataset[index][0].convert("RGB")
        except UnreadableImageError as error:
            return str(error)

    def _title(self, row: int) -> str:
        image_id = int(self.matching.image_ids[row])
        name = self.dataset.coco.imgs[image_id].get("file_name", "")
        return f"image {image_id} {text(name)}"


def _is_inside(box: tuple[float, float, float, float], size: tuple[int, int]) -> bool:
    """Return if a part of a box is inside an image of a size."""
    return all(start < room and start + side > 0 for start, side, room in zip(box[:2], box[2:], size, strict=True))
