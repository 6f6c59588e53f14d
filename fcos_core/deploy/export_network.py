"""The detector as one function of tensors, from padded bytes to detections, for export to other runtimes."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.onnx.symbolic_helper import parse_args

from fcos_core.deploy.compiler import prepare
from fcos_core.layers.nms import nms_mask
from fcos_core.modeling.detector import Detector
from fcos_core.modeling.fcos.postprocess import FCOSPostProcessor, rank_of
from fcos_core.structures.image_list import PixelNormalization

_ONNX_BOOL = 9
OUTPUTS = ("num_detections", "boxes", "scores", "labels")


class ExportNetwork(nn.Module):
    """Detector whose every step, apart from reading and resizing an image, is in the graph that is exported.

    Args:
        model: made by `build_detection_model`; a copy is taken, with folded norms.
        normalization: of the pixels.
        dtype: of weights and activations, see `compile_for_inference`.
        standard: use only operators that other runtimes have, for ONNX and OpenVINO.
        raw: give the outputs of the head, without post-processing.
    """

    def __init__(
        self,
        model: Detector,
        normalization: PixelNormalization,
        dtype: torch.dtype = torch.float32,
        standard: bool = True,
        raw: bool = False,
    ) -> None:
        super().__init__()
        self.detector, self.raw, self.dtype = prepare(model, torch.device("cpu"), dtype), raw, dtype
        post, levels = self.detector.rpn.postprocess, len(self.detector.rpn.strides)
        classes = self.detector.rpn.head.cls_logits.out_channels
        self.detector.rpn.postprocess = StandardPostProcessor(levels, classes, **vars(post)) if standard else post
        self.order = [2, 1, 0] if normalization.to_bgr255 else [0, 1, 2]
        scale = 1.0 if normalization.to_bgr255 else 255.0
        for name, values in (("mean", normalization.mean), ("std", normalization.std)):
            self.register_buffer(name, (torch.tensor(values, dtype=torch.float64) * scale).float()[:, None, None])

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        """Detect objects, or return the outputs of the head.

        Args:
            images: (N, 3, H, W) RGB in 0 to 255, uint8 (float32 by the rule of torchvision), each image at the top
                left; H and W are multiples of 32. The padding may hold any value.
            image_sizes: (N, 2) int64, height and width in pixels of each image without padding.

        Returns:
            `num_detections` (N,) int64; `boxes` (N, D, 4) float32 (x1, y1, x2, y2) in pixels of `images`, `scores`
            (N, D) float32 and `labels` (N, D) int64, the class counted from 0, all best first. Rows from
            `num_detections` on have label -1. If `raw`, for each level class logits, distances and quality logits.
        """
        rpn = self.detector.rpn
        features = self.detector.backbone(self.normalize(images, image_sizes))
        outputs = rpn.head(features)
        if self.raw:
            return tuple(tensor.float() for level in zip(*outputs, strict=True) for tensor in level)
        locations = rpn.locations(features, (images.shape[-2], images.shape[-1]))
        rows = rpn.postprocess.fixed_size(locations, *outputs, self.clip_max(image_sizes))
        labels = rows[..., 5].long()
        return (labels > 0).sum(dim=1), rows[..., :4], rows[..., 4], labels - 1

    def normalize(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        """Normalize as `ByteImages.normalize` does, without a loop over the images."""
        pixels = (images[:, self.order].float() - self.mean) / self.std
        rows, columns = (torch.arange(images.shape[axis], device=images.device) for axis in (-2, -1))
        inside = (rows[:, None] < image_sizes[:, 0, None, None]) & (columns < image_sizes[:, 1, None, None])
        return (pixels * inside[:, None]).to(self.dtype)

    def clip_max(self, image_sizes: Tensor) -> Tensor:
        """Return the `BoxCoder.clip_max` (N, 4) of image sizes that are known only when the graph runs."""
        last = 0 if self.detector.rpn.postprocess.coder.continuous else 1
        return (image_sizes.flip(1).repeat(1, 2) - last).float()


class StandardPostProcessor(FCOSPostProcessor):
    """Post-processing of `levels` levels and `classes` classes by operators that every runtime has.

    All counts are constants, as TensorRT wants them. Of equal scores the earlier goes first where a runtime's TopK has
    it so, as ONNX says.
    """

    def __init__(self, levels: int, classes: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.classes = classes
        self.detections_per_image = min(self.detections_per_image, levels * self.pre_nms_top_n)

    def _best_of_levels(self, rank: Tensor, valid: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
        # Runtimes lack the 64-bit keys of scores and indices. A level may have fewer pairs than the constant count.
        best, start = [], 0
        for level in rank.masked_fill(~valid, -1).split(list(sizes), dim=1):
            padded = F.pad(level, (0, self.pre_nms_top_n), value=-1.0)
            scores, indices = torch.topk(padded, self.pre_nms_top_n, dim=1)
            best.append((scores, indices + start))
            start = start + level.shape[1]
        scores, indices = (torch.cat(parts, dim=1) for parts in zip(*best, strict=True))
        valid = scores >= 0
        return indices.masked_fill(~valid, 0), valid

    def _kept(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        # A box beyond the best D of its class is not among the best D of its image.
        return nms_of_images(boxes, scores, labels, self.classes, self.nms_threshold, self.detections_per_image)

    def _best_first(self, rows: Tensor, count: int | None = None) -> Tensor:
        # A sort would be a TopK of all candidates, more than TensorRT's TopK gives.
        index = torch.topk(rank_of(rows), self.detections_per_image, dim=1).indices
        return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[2]))


@torch.library.custom_op("fcos_core::nms_of_images", mutates_args=())
def nms_of_images(
    boxes: Tensor, scores: Tensor, labels: Tensor, classes: int, iou_threshold: float, max_per_class: int
) -> Tensor:
    """Return (N, K) bool, True for the boxes that non-maximum suppression keeps in each class of each image.

    It stands for ONNX's NonMaxSuppression, see `onnx_nms_of_images`.

    Args:
        boxes: (N, K, 4) float32, xyxy in pixels, inclusive as for `nms_mask`.
        scores: (N, K) float32, more than 0.
        labels: (N, K) int64, from 1 to `classes`; 0 marks an empty slot.
        iou_threshold: see `nms_mask`.
        max_per_class: keep only so many of a class, the best.
    """
    rows = zip(boxes, scores, labels, strict=True)
    return torch.stack([nms_mask(box, score, label, iou_threshold) & (label > 0) for box, score, label in rows])


@nms_of_images.register_fake
def _(boxes: Tensor, scores: Tensor, labels: Tensor, classes: int, iou_threshold: float, max_per_class: int) -> Tensor:
    return torch.empty_like(labels, dtype=torch.bool)


@parse_args("v", "v", "v", "i", "f", "i")
def onnx_nms_of_images(
    graph: Any, boxes: Any, scores: Any, labels: Any, classes: int, iou_threshold: float, max_per_class: int
) -> Any:
    """Add the operators for `nms_of_images` to an ONNX graph; arguments and result are values of the graph."""

    def constant(*values: float) -> Any:
        return graph.op("Constant", value_t=torch.tensor(values))

    # With a pixel added to the larger corner, NonMaxSuppression's IoU is the inclusive one. Each class has its own row
    # of scores: boxes moved apart by class, a common shortcut, would lose digits.
    corners = graph.op("Add", boxes, constant(0.0, 0.0, 1.0, 1.0))
    numbers = graph.op("Unsqueeze", constant(*range(1, classes + 1)), constant(1))
    of_class = graph.op("Equal", graph.op("Unsqueeze", labels, constant(1)), numbers)
    of_classes = graph.op("Where", of_class, graph.op("Unsqueeze", scores, constant(1)), constant(0.0))
    limits = (constant(max_per_class), constant(iou_threshold), constant(0.0))
    kept = graph.op("NonMaxSuppression", corners, of_classes, *limits)  # (M, 3): image, class, box
    places = graph.op("Gather", kept, constant(0, 2), axis_i=1)
    count = graph.op("Slice", graph.op("Shape", places), constant(0), constant(1))
    marks = graph.op("ScatterND", graph.op("Mul", labels, constant(0)), places, graph.op("Expand", constant(1), count))
    return graph.op("Cast", marks, to_i=_ONNX_BOOL)


@parse_args(*"vvvvv", *"iiiiiii", "i", "b")
def onnx_deform_conv(
    graph: Any,
    x: Any,
    weight: Any,
    offset: Any,
    mask: Any,
    bias: Any,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Any:
    """Add torchvision's deformable convolution to an ONNX graph (operator set 19)."""
    # The bias is an operator of its own: OpenVINO's deformable convolution has none.
    zero = graph.op("Constant", value_t=torch.zeros(weight.type().sizes()[0]))
    sampled = graph.op(
        "DeformConv",
        *(x, weight, offset, zero, *([mask] if use_mask else [])),
        strides_i=[stride_h, stride_w],
        pads_i=[pad_h, pad_w] * 2,
        dilations_i=[dilation_h, dilation_w],
        group_i=groups,
        offset_group_i=offset_groups,
    )
    return graph.op("Add", sampled, graph.op("Unsqueeze", bias, graph.op("Constant", value_t=torch.tensor([0, 2, 3]))))
