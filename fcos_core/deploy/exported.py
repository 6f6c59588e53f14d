"""Run an exported detector in its own runtime, and compare it with the detector in PyTorch."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcos_core.deploy.export import feed
from fcos_core.deploy.export_network import OUTPUTS
from fcos_core.errors import InputError
from fcos_core.structures.bounding_box import BoxList, boxlist_iou
from fcos_core.structures.image_list import ByteImages
from fcos_core.utils.optional import import_optional

# Largest differences of a float32 export: pixels of a box, score, and the outputs of the head.
PIXELS, SCORE, HEAD = 0.05, 1e-4, 1e-3
# Largest share of detections that rounding may decide. Of two boxes that suppress each other and whose scores are as
# close as `SCORE`, a runtime may keep the other one. The same holds at the threshold, and for the last place of a full
# list.
TIES = 0.01
# Least share of detections that other precisions find again, with an IoU of a half or more.
LEAST_SHARE = {"bfloat16": 0.8, "int8": 0.5}

Runner = Callable[[ByteImages], list[Tensor]]

logger = logging.getLogger(__name__)


def open_exported(path: Path, kind: str, precision: str = "float32") -> Runner:
    """Load a file of `kind`, see `export.ENDINGS`, in its runtime on the CPU; return a function that runs a batch.

    Args:
        path, kind, precision: the file, and its format and precision.

    Raises:
        InputError: the runtime is not installed.
    """
    threads = torch.get_num_threads()
    if kind == "onnx":
        return _open_onnx(path, threads)
    if kind == "openvino":
        return _open_openvino(path, precision, threads)
    program = torch._inductor.aoti_load_package(str(path)) if kind == "aot" else torch.export.load(path).module()

    def run(images: ByteImages) -> list[Tensor]:
        with torch.no_grad():
            return list(program(images.pixels.contiguous(), torch.tensor(images.image_sizes)))

    return run


def _open_onnx(path: Path, threads: int) -> Runner:
    runtime = import_optional("onnxruntime", "onnx", "Running an ONNX file")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(array) for array in session.run(None, feed(images))]


def _open_openvino(path: Path, precision: str, threads: int) -> Runner:
    openvino = import_optional("openvino", "openvino", "Running an OpenVINO file")
    # Without the hint, OpenVINO computes in bfloat16 on a CPU that has it.
    hint = "bf16" if precision == "bfloat16" else "f32"
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(str(path), "CPU", settings)
    if hint == "bf16" and "bf" not in str(model.get_property("INFERENCE_PRECISION_HINT").to_string()):
        logger.warning("This CPU has no bfloat16: OpenVINO runs, and checks, the file in float32 here.")

    def run(images: ByteImages) -> list[Tensor]:
        results = model(feed(images))
        return [torch.from_numpy(results[number].copy()) for number in range(len(model.outputs))]

    return run


class ExportedDetector(nn.Module):
    """An exported file with post-processing as a detector: bytes of images to a list of BoxList.

    Args:
        run: see `open_exported`.
        least_side: see `export.least_side`.
        continuous: see `BoxCoder`.
        category_names: see `Detector`.
    """

    def __init__(
        self, run: Runner, least_side: int, continuous: bool = False, category_names: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.run, self.least_side, self.continuous = run, least_side, continuous
        self.category_names = category_names

    def forward(self, images: ByteImages) -> list[BoxList]:
        """Return the detections of each image, in its pixels, best first."""
        found = dict(zip(OUTPUTS, self.run(with_least_side(images, self.least_side)), strict=True))
        detections = []
        for i, (height, width) in enumerate(images.image_sizes):
            count = int(found["num_detections"][i])
            boxes = BoxList(found["boxes"][i, :count], (width, height), "xyxy", continuous=self.continuous)
            boxes.add_field("scores", found["scores"][i, :count])
            boxes.add_field("labels", found["labels"][i, :count] + 1)
            detections.append(boxes)
        return detections


def with_least_side(images: ByteImages, least_side: int) -> ByteImages:
    """Return the batch, padded to `least_side` in height and width."""
    missing = [max(least_side - side, 0) for side in images.padded_size]
    pixels = F.pad(images.pixels, (0, missing[1], 0, missing[0])) if any(missing) else images.pixels
    return ByteImages(pixels, images.image_sizes, images.normalization)


@dataclass
class Agreement:
    """How far an exported detector agrees with the one in PyTorch.

    Attributes:
        batches: number and sizes of the batches compared.
        expected, found, matched: detections of PyTorch, of the export, and pairs of the two.
        ties: further detections, of PyTorch or of the export, that rounding may have decided, see `TIES`.
        pixels, score: largest difference of a pair.
    """

    batches: list[str]
    expected: int = 0
    found: int = 0
    matched: int = 0
    ties: int = 0
    pixels: float = 0.0
    score: float = 0.0

    def __str__(self) -> str:
        ties = f" and {self.ties} decided by rounding" if self.ties else ""
        return (
            f"{self.matched} of {self.expected} detections matched{ties}, {self.found} found, at most "
            f"{self.pixels:.4f} px and {self.score:.1e} in score apart (batches of {', '.join(self.batches)})"
        )


def compare_detections(
    expected: Callable[[ByteImages], list[BoxList]],
    found: ExportedDetector,
    batches: Sequence[ByteImages],
    exact: bool,
    edge: float = 0.0,
) -> Agreement:
    """Match the detections of both on `batches`, one to one, by label and box, and by score too if `exact`.

    `edge` is the highest score of a detection that the threshold can decide.
    """
    agreement = Agreement(["x".join(map(str, batch.pixels.shape)) for batch in batches])
    for batch in batches:
        batch = with_least_side(batch, found.least_side)
        for one, other in zip(expected(batch), found(batch), strict=True):
            _match(agreement, one.to("cpu"), other, exact, edge)
    return agreement


def _match(agreement: Agreement, one: BoxList, other: BoxList, exact: bool, edge: float) -> None:
    pixels = (one.bbox[:, None] - other.bbox).abs().amax(dim=2)
    ours, theirs = one.get_field("scores"), other.get_field("scores")
    scores = (ours[:, None] - theirs).abs()
    same = one.get_field("labels")[:, None] == other.get_field("labels")
    overlap = same & (boxlist_iou(one, other) >= 0.5)
    agreement.expected, agreement.found = agreement.expected + len(one), agreement.found + len(other)
    pairs = _pairs(same & (pixels <= PIXELS) & (scores <= SCORE) if exact else overlap, pixels)
    agreement.matched += len(pairs)
    for i, j in pairs:
        agreement.pixels = max(agreement.pixels, pixels[i, j].item())
        agreement.score = max(agreement.score, scores[i, j].item())
    if exact:
        rows, columns = ([pair[side] for pair in pairs] for side in (0, 1))
        overlap[rows], overlap[:, columns] = False, False
        tied = _pairs(overlap & (scores <= SCORE), pixels)
        left = (_left(ours, rows, [i for i, _ in tied], edge), _left(theirs, columns, [j for _, j in tied], edge))
        agreement.ties += len(tied) + max(left)


def _left(scores: Tensor, paired: list[int], tied: list[int], edge: float) -> int:
    """Return how many of the detections without a partner are at the threshold, or the last of the list."""
    alone = torch.ones(len(scores), dtype=torch.bool)
    alone[paired + tied] = False
    lowest = max(edge, scores.min().item() if len(scores) else 0.0)
    return int((alone & (scores <= lowest + SCORE)).sum())


def _pairs(fits: Tensor, distance: Tensor) -> list[tuple[int, int]]:
    """Return pairs of a row and a column that fit, each used once; the nearest column that is free to each row."""
    free = torch.ones(fits.shape[1], dtype=torch.bool)
    pairs = []
    for i, row in enumerate(fits):
        partners = (row & free).nonzero().flatten()
        if len(partners):
            j = int(partners[distance[i, partners].argmin()])
            free[j] = False
            pairs.append((i, j))
    return pairs


def check_detections(agreement: Agreement, precision: str) -> None:
    """Raise InputError unless the exported detector is the one in PyTorch, as far as its precision allows."""
    if not agreement.expected:
        raise InputError(
            "The export was not checked, as the detector finds nothing on the images that were to check it "
            f"(batches of {', '.join(agreement.batches)}): name images with objects behind --check."
        )
    least, most = LEAST_SHARE.get(precision, 1.0), max(agreement.expected, agreement.found)
    if agreement.matched + agreement.ties < least * most or agreement.ties > max(TIES * most, 1):
        raise InputError(f"The exported file does not detect what PyTorch does, and was not written: {agreement}.")


def check_head(
    expected: Callable[[ByteImages], Sequence[Tensor]], run: Runner, batches: Sequence[ByteImages], least_side: int
) -> float:
    """Return the largest difference of raw outputs, relative to 1 plus their size; raise InputError above `HEAD`."""
    worst = 0.0
    for batch in batches:
        batch = with_least_side(batch, least_side)
        for one, other in zip(expected(batch), run(batch), strict=True):
            same_shape = one.shape == other.shape
            worst = max(worst, ((one - other).abs() / (1 + one.abs())).amax().item() if same_shape else torch.inf)
    if not worst <= HEAD:
        raise InputError(f"The exported file's outputs are not PyTorch's, and it was not written: {worst:.1e} apart.")
    return worst
