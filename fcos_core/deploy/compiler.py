"""The inference compiler: a detector that computes the same, as fast as its device can."""

import copy
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fcos_core.config.checks import INFERENCE_PRECISIONS
from fcos_core.deploy.cuda_graphs import GpuNetwork, GraphPerShape
from fcos_core.deploy.pad_channels import pad_channels
from fcos_core.errors import InputError, require
from fcos_core.layers.conv_norm import convert_convs
from fcos_core.modeling.detector import Detector
from fcos_core.modeling.fcos.locations import compute_locations
from fcos_core.modeling.fcos.postprocess import to_box_lists
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ByteImages, ImageList, to_image_list

logger = logging.getLogger(__name__)


def compile_for_inference(
    model: Detector,
    device: torch.device | str | None = None,
    precision: str = "float32",
    parallel: bool = True,
    max_graphs: int = 16,
) -> "CompiledDetector":
    """A copy of `model` for inference alone; `model` stays as it is, and what is done to it later does not reach it.

    Norms with fixed statistics go into the convolutions before them, weights and activations are channels-last and of
    the chosen precision. On a CPU, oneDNN adds and rectifies in its convolutions. On a GPU everything from the padded
    batch to the detections is a CUDA graph, captured when a second batch of a shape comes. Group normalization sees
    the padding, so shapes cannot be rounded up without changing results: a graph serves one padded batch shape.

    Args:
        model: as `build_detection_model` makes it.
        device: where it is to run; where `model` is without it.
        precision: "float32", on GPUs without TF32; "tf32", float32 whose convolutions may use TF32 (GPU);
            "bfloat16"; "float16" (GPU). Normalization is summed in float32, scores and boxes are float32 in all.
        parallel: GPU: HRNet's branches, and the head's towers on every level, are parallel branches of the graph.
        max_graphs: GPU: captured graphs that are kept; the least recently used is dropped.

    Raises:
        InputError: an argument is not as above, or a precision that the device does not have.
    """
    device = torch.device(device) if device is not None else next(model.parameters()).device
    known = ", ".join(INFERENCE_PRECISIONS)
    require(precision in INFERENCE_PRECISIONS, "Inference precision", precision, f"one of {known}")
    require(max_graphs >= 1, "max_graphs", max_graphs, "1 or more")
    if device.type != "cuda" and precision in ("tf32", "float16"):
        raise InputError(f"Inference in {precision} needs a CUDA device; on '{device}' use float32 or bfloat16.")
    dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
    detector = _prepared(model, device, dtype)
    if device.type != "cuda":
        return CompiledDetector(detector)
    # Tensor cores take 16 bytes of channels at once; true float32 does not use them.
    allow_tf32 = precision != "float32"
    channels = pad_channels(detector.backbone, 16 // dtype.itemsize if allow_tf32 else 1)
    network = GpuNetwork(_Network(detector), device, dtype, channels, allow_tf32, parallel)
    return CompiledDetector(detector, GraphPerShape(network.run, network.capture, max_graphs))


def _prepared(model: Detector, device: torch.device, dtype: torch.dtype) -> Detector:
    # In float64 what is folded is rounded once, to `dtype`.
    detector = copy.deepcopy(model).to(device).double().eval().requires_grad_(False)
    detector.zero_grad(set_to_none=True)
    num_folded = convert_convs(detector)
    # What makes the logarithms of distances: rounded to a half type, distances would be off by percents. And what
    # scales the normalized, as in training.
    norms = [module for module in detector.modules() if isinstance(module, nn.GroupNorm)]
    precise = nn.ModuleList([detector.rpn.head.bbox_pred, detector.rpn.head.scales, *norms])
    unrounded = precise.state_dict()
    detector.to(dtype=dtype, memory_format=torch.channels_last)
    precise.to(torch.float32).load_state_dict(unrounded)
    logger.info("Compiled for inference on %s in %s: %d norms folded.", device, dtype, num_folded)
    return detector


class CompiledDetector(nn.Module):
    """What `compile_for_inference` returns: images to detections. It stays in evaluation mode.

    Args:
        detector: one that is prepared for inference.
        graphs: padded batches to rows for `to_box_lists`; without it the detector is called. It is to be called from
            one stream at a time: all calls share buffers.
    """

    def __init__(self, detector: Detector, graphs: Callable[[ImageList], Tensor] | None = None) -> None:
        super().__init__()
        self.detector = detector.eval()
        self.graphs = graphs
        parameter = next(detector.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    def train(self, mode: bool = True) -> "CompiledDetector":
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: ImageList | ByteImages | Tensor | Sequence[Tensor]) -> list[BoxList]:
        """Detections as `Detector.forward` gives them in evaluation mode; those of a GPU are on the CPU.

        Raises:
            InputError: images that have not 3 channels.
        """
        images = _checked(images)
        if self.graphs is not None:
            return to_box_lists(self.graphs(images).cpu(), images.image_sizes)
        batch = images.tensors.to(self.device, self.dtype, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, enabled=False):
            return self.detector(ImageList(batch, images.image_sizes))

    @torch.no_grad()
    def launch(self, images: ImageList | ByteImages) -> Tensor:
        """Queue the detection of `images` on the GPU; from the third batch of a shape on without waiting for it.

        Returns:
            (N, D, 6) float32 rows on the GPU, which `to_box_lists` reads; the next launch overwrites them.

        Raises:
            InputError: images that have not 3 channels.
        """
        return self.graphs(_checked(images))


def _checked(images: ImageList | ByteImages | Tensor | Sequence[Tensor]) -> ImageList:
    images = to_image_list(images, size_divisible=32)
    channels = images.tensors.shape[1]
    if channels != 3:
        raise InputError(f"Images have {channels} channels; a detector takes 3, in the order of INPUT.TO_BGR255.")
    return images


class _Network(nn.Module):
    """Padded images and their `make_clip_max` to the rows of their detections, in shapes that depend on no value."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor, clip_max: Tensor) -> Tensor:
        rpn = self.detector.rpn
        features = self.detector.backbone(images)
        outputs = rpn.head(features)
        locations = compute_locations(features, rpn.strides)
        return rpn.postprocess.fixed_size(locations, *outputs, clip_max)
