"""Build the contenders: the detector as published and as this package runs it, torchvision's FCOS, timm's HRNets."""

import contextlib
import copy
import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import fcos_resnet50_fpn

from benchmarks.models import SEED, bias_shift, network_input
from benchmarks.plain import PlainTrainingStep, make_plain, make_plain_optimizer
from fcos_core.config import Config
from fcos_core.data.build import build_normalization
from fcos_core.deploy.compiler import compile_for_inference
from fcos_core.deploy.export import ENDINGS
from fcos_core.engine.export import write
from fcos_core.engine.train import make_training_step
from fcos_core.modeling.detector import Detector
from fcos_core.solver import make_optimizer
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ByteImages, ImageList

# True if convolutions may round their inputs to TF32, which is PyTorch's default.
PLAIN_ON_CUDA = {"plain": True, "plain without TF32": False}
TIMM_NAMES = {"HRNET-W18": "hrnet_w18", "HRNET-W32": "hrnet_w32", "HRNET-W40": "hrnet_w40"}

Call = Callable[[], Any]


def plain_names(device: torch.device) -> list[str]:
    """Return the names of the plain contenders on `device`; only CUDA has TF32. Ratios refer to the fastest."""
    return list(PLAIN_ON_CUDA) if device.type == "cuda" else ["plain"]


# --------------------------------------------------- inference: from images on the device to boxes on the host
def plain_inference(config: Config, detector: Detector, images: Tensor) -> dict[str, Call]:
    """Build the detector as published, by name."""
    model = make_plain(config, copy.deepcopy(detector))
    batch = network_input(config, images)

    def detect(allow_tf32: bool) -> list[BoxList]:
        with torch.no_grad(), convolution_tf32(allow_tf32):
            return [found.to("cpu") for found in model(batch)]

    return {name: partial(detect, PLAIN_ON_CUDA[name]) for name in plain_names(images.device)}


def our_inference(config: Config, detector: Detector, images: Tensor, precision: str) -> Call:
    """Compile the detector for inference."""
    compiled = compile_for_inference(detector, images.device, precision)
    batch = network_input(config, images)
    compiled(batch)  # on CUDA the second batch of a shape is captured, so the warm-up captures it
    return lambda: [found.to("cpu") for found in compiled(batch)]


def exported_inference(config: Config, detector: Detector, images: Tensor, everything: bool) -> dict[str, Call]:
    """Export the detector to the runtimes that are installed, by name; `everything`: also those that need minutes."""
    height, width = images.shape[-2:]
    batch = ByteImages((images * 255).byte(), [(height, width)] * len(images), build_normalization(config))
    chosen = {"onnxruntime": ("onnx", "float32"), "openvino": ("openvino", "float32")}
    if everything:
        precisions = ("bfloat16", "int8") if has_bfloat16() else ("int8",)
        chosen.update({f"openvino {precision}": ("openvino", precision) for precision in precisions})
        chosen.update({"torch.export": ("torch", "float32"), "AOTInductor": ("aot", "float32")})
    calls: dict[str, Call] = {}
    for name, (kind, precision) in chosen.items():
        if kind in ("onnx", "openvino") and not all(map(importlib.util.find_spec, ("onnx", name.split()[0]))):
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"detector{ENDINGS[kind]}"
            run = write(config, detector, path, kind, precision, calibration=[batch] if precision == "int8" else ())
        calls[name] = partial(run, batch)
    return calls


def has_bfloat16() -> bool:
    """Return True if this CPU computes in bfloat16; others convert, and are many times slower."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def torchvision_inference(images: Tensor, candidates: int) -> dict[str, Call]:
    """Build torchvision's R-50 FCOS unchanged and with the options that make it fast, by name."""
    plain = make_torchvision_fcos(images, candidates)
    tuned = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    compiled = copy.deepcopy(tuned)
    compile_parts(images.device, compiled.backbone, compiled.head)
    dtype = autocast_dtype(images.device)

    def detect(model: nn.Module, dtype: torch.dtype | None) -> list[dict[str, Tensor]]:
        with torch.no_grad(), torch.autocast(images.device.type, dtype, enabled=dtype is not None):
            return [{name: value.cpu() for name, value in found.items()} for found in model(list(images))]

    def detect_compiled() -> list[dict[str, Tensor]]:
        torch.compiler.cudagraph_mark_step_begin()
        return detect(compiled, dtype)

    how = "bfloat16 channels_last" if dtype else "channels_last"
    return {
        "torchvision": partial(detect, plain, None),
        f"torchvision {how}": partial(detect, tuned, dtype),
        f"torchvision {how} compiled": detect_compiled,
    }


def make_torchvision_fcos(images: Tensor, candidates: int) -> nn.Module:
    """Make torchvision's FCOS with random weights that find as much as ours, for images (N, 3, H, W) in 0..1.

    `candidates` class scores per image pass torchvision's threshold, and the boxes are as large as ours.
    Resizing is disabled, so that all contenders see the same pixels.
    """
    torch.manual_seed(SEED)
    model = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=80).to(images.device).eval()
    model.transform.resize = lambda image, target: (image, target)
    regression = model.head.regression_head.bbox_reg
    with torch.no_grad():
        # torchvision predicts distances in strides; `make_detector` also uses four strides.
        regression.weight.mul_(0.1)
        regression.bias.fill_(4)
        least = torchvision_thresholds(model, images)
        model.head.classification_head.cls_logits.bias += bias_shift(least.flatten(), candidates * len(images))
    return model


@torch.no_grad()
def torchvision_thresholds(model: nn.Module, images: Tensor) -> Tensor:
    """Return (N, L, 80): the smallest logit that torchvision takes as a candidate, minus the actual logit."""
    batch, _ = model.transform(list(images))
    outputs = model.head(list(model.backbone(batch.tensors).values()))
    # torchvision's score is sqrt(class probability * centerness).
    least = (model.score_thresh**2 / outputs["bbox_ctrness"].sigmoid()).clamp(max=1)
    return least.logit() - outputs["cls_logits"]


# --------------------------------------------------------------------------------------------------- backbones
def timm_backbone(body: str) -> nn.Module:
    """Make timm's HRNet as a backbone body that returns the four branches of its last stage."""
    import timm

    torch.manual_seed(SEED)
    return timm.create_model(TIMM_NAMES[body], features_only=True, feature_location="", out_indices=(1, 2, 3, 4))


def has_timm() -> bool:
    """Return True if timm is installed."""
    return importlib.util.find_spec("timm") is not None


def backbone_inference(name: str, body: nn.Module, batch: Tensor) -> dict[str, Call]:
    """Build calls that run a body of PyTorch modules unchanged and with the options that make it fast, by name.

    On a CPU the body is not compiled, because compiling HRNet's hundreds of convolutions takes many minutes.
    """
    body = body.to(batch.device).eval()
    tuned = copy.deepcopy(body).to(memory_format=torch.channels_last)
    if batch.device.type == "cuda":
        compile_parts(batch.device, tuned)
    tuned_batch = batch.to(memory_format=torch.channels_last)
    dtype = autocast_dtype(batch.device)

    def run() -> Any:
        with torch.no_grad():
            return body(batch)

    def run_tuned() -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.no_grad(), torch.autocast(batch.device.type, dtype, enabled=dtype is not None):
            return tuned(tuned_batch)

    how = "bfloat16 channels_last compiled" if dtype else "channels_last"
    return {name: run, f"{name} {how}": run_tuned}


# ------------------------------------------- training: functions that build a contender and return its step
def plain_training(
    config: Config, detector: Detector, images: Tensor, targets: Sequence[BoxList]
) -> dict[str, Callable[[], Call]]:
    """Return functions that build the training step as published, by name."""

    def make(allow_tf32: bool) -> Call:
        model = make_plain(config, copy.deepcopy(detector)).train()
        step = PlainTrainingStep(model, make_plain_optimizer(config, model))
        batch = _image_list(config, images)

        def run() -> Any:
            with convolution_tf32(allow_tf32):
                return step(batch, targets)

        return run

    return {name: partial(make, PLAIN_ON_CUDA[name]) for name in plain_names(images.device)}


def our_training(
    config: Config, detector: Detector, images: Tensor, targets: Sequence[BoxList], *opts: object
) -> Callable[[], Call]:
    """Return a function that builds our training step from `config`, with `opts` merged as [key, value, ...]."""
    config = config.clone()
    config.merge_from_list(["SOLVER.CHANNELS_LAST", True, *opts])

    def make() -> Call:
        model = copy.deepcopy(detector).train()
        step = make_training_step(config, model, make_optimizer(config, model))
        batch = _image_list(config, images)

        def run() -> Any:
            losses = step.compute_gradients(batch, targets)
            step.update()
            return losses

        return run

    return make


def torchvision_training(
    config: Config, images: Tensor, targets: Sequence[BoxList], candidates: int
) -> dict[str, Callable[[], Call]]:
    """Return functions that build torchvision's training step, by name.

    The layers that torchvision freezes when it loads pretrained weights are frozen.
    """
    labelled = [{"boxes": target.bbox, "labels": target.get_field("labels") - 1} for target in targets]

    def make(dtype: torch.dtype | None, memory_format: torch.memory_format) -> Call:
        model = make_torchvision_fcos(images, candidates).train().to(memory_format=memory_format)
        _freeze_torchvision(model.backbone.body)
        optimizer = make_plain_optimizer(config, model)

        def run() -> Any:
            with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
                losses = model(list(images), labelled)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            return losses

        return run

    dtype = autocast_dtype(images.device)
    how = "bfloat16 channels_last" if dtype else "channels_last"
    return {
        "torchvision": partial(make, None, torch.contiguous_format),
        f"torchvision {how}": partial(make, dtype, torch.channels_last),
    }


def _freeze_torchvision(body: nn.Module) -> None:
    for name, parameter in body.named_parameters():
        if not name.startswith(("layer2", "layer3", "layer4")):
            parameter.requires_grad_(False)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(False)


def _image_list(config: Config, images: Tensor) -> ImageList:
    return ImageList(network_input(config, images), [images.shape[-2:]] * len(images))


# ------------------------------------------------------------------------------------------------------ shared
@contextlib.contextmanager
def convolution_tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid CUDA's float32 convolutions to round their inputs to TF32 inside the context."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return bfloat16, which is fast on every CUDA device; None on a CPU, because not every CPU is fast in bfloat16."""
    return torch.bfloat16 if device.type == "cuda" else None


def compile_parts(device: torch.device, *parts: nn.Module) -> None:
    """Compile each part for one input size, on CUDA with CUDA graphs."""
    for part in parts:
        part.compile(dynamic=False, mode="reduce-overhead" if device.type == "cuda" else "default")
