"""Who is measured: the detector as published, as this package runs it, torchvision's FCOS, timm's HRNets."""

import contextlib
import copy
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import fcos_resnet50_fpn

from benchmarks.models import SEED, bias_shift, network_input
from benchmarks.plain import PlainTrainingStep, make_plain, make_plain_optimizer
from fcos_core.config import Config
from fcos_core.modeling.detector import Detector
from fcos_core.solver import make_optimizer
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ImageList

# Whether convolutions may round to TF32, as PyTorch lets them unless it is told not to.
PLAIN_ON_CUDA = {"plain": True, "plain without TF32": False}
TIMM_NAMES = {"HRNET-W18": "hrnet_w18", "HRNET-W32": "hrnet_w32", "HRNET-W40": "hrnet_w40"}

Call = Callable[[], Any]


def plain_names(device: torch.device) -> list[str]:
    """The contenders of whose faster one ratios are; a CPU has no TF32."""
    return list(PLAIN_ON_CUDA) if device.type == "cuda" else ["plain"]


# ------------------------------------------------------------- inference: images to boxes that the host has read
def plain_inference(config: Config, detector: Detector, images: Tensor) -> dict[str, Call]:
    """The published way."""
    model = make_plain(config, copy.deepcopy(detector))
    batch = network_input(config, images)

    def detect(allow_tf32: bool) -> list[BoxList]:
        with torch.no_grad(), convolution_tf32(allow_tf32):
            return [found.to("cpu") for found in model(batch)]

    return {name: partial(detect, PLAIN_ON_CUDA[name]) for name in plain_names(images.device)}


def our_inference(config: Config, detector: Detector, images: Tensor, precision: str, parallel: bool = True) -> Call:
    """What the inference compiler makes of the detector."""
    from fcos_core.engine import compile_for_inference

    compiled = compile_for_inference(detector, images.device, precision, parallel)
    batch = network_input(config, images)
    compiled(batch)  # on CUDA the second batch of a shape is captured: the warm-up's
    return lambda: [found.to("cpu") for found in compiled(batch)]


def torchvision_inference(images: Tensor, candidates: int) -> dict[str, Call]:
    """torchvision's R-50 FCOS as it comes, and as well as its users can make it."""
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
    """Random weights that find as much as ours: `candidates` an image pass its threshold, boxes are as large.

    It takes the images as they are: its own resizing is left out.
    """
    torch.manual_seed(SEED)
    model = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=80).to(images.device).eval()
    model.transform.resize = lambda image, target: (image, target)
    regression = model.head.regression_head.bbox_reg
    with torch.no_grad():
        # Distances in strides, four as in `make_detector`.
        regression.weight.mul_(0.1)
        regression.bias.fill_(4)
        least = torchvision_thresholds(model, images)
        model.head.classification_head.cls_logits.bias += bias_shift(least.flatten(), candidates * len(images))
    return model


@torch.no_grad()
def torchvision_thresholds(model: nn.Module, images: Tensor) -> Tensor:
    """How far the logit of each class at each location lies below where torchvision takes it for a candidate."""
    batch, _ = model.transform(list(images))
    outputs = model.head(list(model.backbone(batch.tensors).values()))
    # Its score is the square root of the probability of the class times that of the centerness.
    least = (model.score_thresh**2 / outputs["bbox_ctrness"].sigmoid()).clamp(max=1)
    return least.logit() - outputs["cls_logits"]


# --------------------------------------------------------------------------------------------------- backbones
def timm_backbone(body: str) -> nn.Module:
    """timm's HRNet as a body: the four branches of its last stage, without the layers for classification."""
    import timm

    torch.manual_seed(SEED)
    return timm.create_model(TIMM_NAMES[body], features_only=True, feature_location="", out_indices=(1, 2, 3, 4))


def has_timm() -> bool:
    return importlib.util.find_spec("timm") is not None


def backbone_inference(name: str, body: nn.Module, batch: Tensor) -> dict[str, Call]:
    """A body of PyTorch modules as it comes, and as well as its users can make it.

    On a CPU it is not compiled: of HRNet's hundreds of convolutions that takes many minutes.
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


# ---------------------------------------------- training: functions that build a contender and give its step
def plain_training(
    config: Config, detector: Detector, images: Tensor, targets: Sequence[BoxList]
) -> dict[str, Callable[[], Call]]:
    """The published way."""

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
    """Training as `config` with `opts`, key by value, has it."""
    config = config.clone()
    config.merge_from_list(["SOLVER.CHANNELS_LAST", True, *opts])

    def make() -> Call:
        from fcos_core.engine.train import make_training_step

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
    """torchvision's R-50 FCOS with the layers frozen that it freezes for pretrained weights."""
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
    """Within it, CUDA's float32 convolutions may or may not round their inputs to TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What users of other packages run in where they want speed; CPUs differ too much in it."""
    return torch.bfloat16 if device.type == "cuda" else None


def compile_parts(device: torch.device, *parts: nn.Module) -> None:
    """torch.compile for one input size; with CUDA graphs on CUDA."""
    for part in parts:
        part.compile(dynamic=False, mode="reduce-overhead" if device.type == "cuda" else "default")
