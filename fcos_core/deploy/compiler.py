"""Compile a detector for fast inference."""

import copy
import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fcos_core.config.checks import INFERENCE_PRECISIONS
from fcos_core.deploy.cuda_graphs import GpuNetwork, GraphPerShape, Launch
from fcos_core.deploy.pad_channels import pad_channels
from fcos_core.errors import InputError, require
from fcos_core.layers.conv_norm import convert_convs
from fcos_core.modeling.detector import Detector
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ByteImages, ImageList, to_image_list

logger = logging.getLogger(__name__)


def compile_for_inference(
    model: Detector, device: torch.device | str | None = None, precision: str = "float32", max_graphs: int = 16
) -> "CompiledDetector":
    """Make a copy of `model` that only detects, and does so faster.

    `model` itself does not change, and later changes to `model` do not reach the copy. The copy has norms with fixed
    statistics folded into the convolutions before them, and channels-last weights and activations in the chosen
    precision. On a CPU, oneDNN's convolutions also add shortcuts and apply ReLU. On a GPU, one CUDA graph computes
    everything from the padded batch to the detections. The second batch of a shape captures the graph for this shape.
    Group normalization sees the padding, so rounding shapes up to share graphs would change the results.

    Args:
        model: made by `build_detection_model`.
        device: device of the copy; None keeps the device of `model`.
        precision: "float32" (without TF32 on GPUs); "tf32", float32 with TF32 convolutions (GPU only); "bfloat16";
            "float16" (GPU only). Normalization sums in float32, and scores and boxes are float32, in every precision.
        max_graphs: number of CUDA graphs to keep; a new graph then replaces the least recently used graph.

    Raises:
        InputError: an argument has an unknown value, or the device does not support the precision.
    """
    device = torch.device(device) if device is not None else next(model.parameters()).device
    known = ", ".join(INFERENCE_PRECISIONS)
    require(precision in INFERENCE_PRECISIONS, "Inference precision", precision, f"one of {known}")
    require(max_graphs >= 1, "max_graphs", max_graphs, "1 or more")
    if device.type != "cuda" and precision in ("tf32", "float16"):
        raise InputError(f"Inference in {precision} needs a CUDA device; on '{device}' use float32 or bfloat16.")
    dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
    detector = prepare(model, device, dtype)
    if device.type != "cuda":
        return CompiledDetector(detector)
    # Tensor cores read channels in units of 16 bytes. Float32 without TF32 does not use tensor cores.
    allow_tf32 = precision != "float32"
    channels = pad_channels(detector.backbone, 16 // dtype.itemsize if allow_tf32 else 1)
    network = GpuNetwork(_Network(detector), device, dtype, channels, allow_tf32)
    return CompiledDetector(detector, GraphPerShape(network.run, network.capture, max_graphs))


def prepare(model: Detector, device: torch.device, dtype: torch.dtype) -> Detector:
    """Return a copy of `model` on `device` with folded norms, channels-last and in `dtype`."""
    # Folding in float64 rounds each folded weight only once, to `dtype`.
    detector = copy.deepcopy(model).to(device).double().eval().requires_grad_(False)
    detector.zero_grad(set_to_none=True)
    num_folded = convert_convs(detector)
    # The box branch predicts logarithms of distances: if its last layers were in a half type, the distances would be
    # wrong by percents. Norms that are not folded scale in float32, as in training.
    kinds = (nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
    norms = [module for module in detector.modules() if isinstance(module, kinds)]
    precise = nn.ModuleList([detector.rpn.head.bbox_pred, detector.rpn.head.scales, *norms])
    unrounded = precise.state_dict()
    detector.to(dtype=dtype, memory_format=torch.channels_last)
    precise.to(torch.float32).load_state_dict(unrounded)
    logger.info("Compiled for inference on %s in %s: %d norms folded.", device, dtype, num_folded)
    return detector


class CompiledDetector(nn.Module):
    """Detector that `compile_for_inference` made and that always stays in evaluation mode.

    Call it from one CUDA stream at a time, because all calls share buffers. `graphs` turns padded batches into rows
    for `to_box_lists`; None runs `detector` itself.
    """

    def __init__(self, detector: Detector, graphs: Launch | None = None) -> None:
        super().__init__()
        self.detector = detector.eval()
        self.graphs = graphs
        parameter = next(detector.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    def train(self, mode: bool = True) -> "CompiledDetector":
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: ImageList | ByteImages | Tensor | Sequence[Tensor]) -> list[BoxList]:
        """Detect as `Detector.forward` does, but return boxes on the CPU; raise InputError unless channels are 3."""
        images = to_image_list(images, size_divisible=32)
        channels = images.tensors.shape[1]
        if channels != 3:
            raise InputError(f"Images have {channels} channels; a detector takes 3, ordered as INPUT.TO_BGR255 says.")
        if self.graphs is not None:
            return self.detector.rpn.postprocess.to_box_lists(self.graphs(images).cpu(), images.image_sizes)
        batch = images.tensors.to(self.device, self.dtype, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, enabled=False):
            return self.detector(ImageList(batch, images.image_sizes))


class _Network(nn.Module):
    """Detector as a function of tensors, from padded images and their `clip_max` (N, 4) to rows of detections.

    No shape depends on the values in a tensor, because a CUDA graph has fixed shapes.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor, clip_max: Tensor) -> Tensor:
        rpn = self.detector.rpn
        features = self.detector.backbone(images)
        locations = rpn.locations(features, (images.shape[-2], images.shape[-1]))
        return rpn.postprocess.fixed_size(locations, *rpn.head(features), clip_max)

    def clip_max(self, image_sizes: Sequence[tuple[int, int]]) -> Tensor:
        return self.detector.rpn.postprocess.coder.clip_max(image_sizes)
