"""Any network of timm (Wightman 2019, PyTorch Image Models) that has a pyramid of feature maps, with an FPN."""

import difflib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fcos_core.config import Config
from fcos_core.errors import InputError, require
from fcos_core.layers.conv_norm import KeptAsItIs
from fcos_core.modeling.backbone.build import batch_norm, body_with_neck, check_batch_norm_size, num_levels
from fcos_core.modeling.neck.fpn import FPN
from fcos_core.modeling.registry import BACKBONES

logger = logging.getLogger(__name__)

# Height and width, in pixels, of the image on which a network is tried: multiples of all strides, and not equal.
_TRIED_SIZE = (64, 96)


class TimmBody(KeptAsItIs):
    """Network of timm that gives the last map of each stride; it draws no random numbers.

    Args:
        net: made by timm.create_model(NAME, features_only=True, feature_cls="getter"), which keeps weights' names.
        strides: of the maps to give, in pixels, finest first; parameters that do not reach these maps are frozen.
        norm: class in place of each BatchNorm, which then uses and updates batch statistics in training; None: the
            BatchNorms stay, and only scale and bias are trained.

    Raises:
        ValueError: the network lacks a stride, or its maps do not have the sizes that their strides give.
    """

    def __init__(self, net: nn.Module, strides: Sequence[int], norm: type[nn.Module] | None = None) -> None:
        super().__init__()
        found = list(net.feature_info.reduction())
        if not set(strides) <= set(found):
            raise ValueError(f"its maps have the strides {found}")
        self.numbers = [len(found) - 1 - found[::-1].index(stride) for stride in strides]
        self.strides, self.norm = tuple(strides), norm
        self.out_channels = tuple(net.feature_info.channels()[number] for number in self.numbers)
        self.net = net
        for module in net.modules():
            if hasattr(module, "drop_prob"):  # stochastic depth, with which no training could be resumed exactly
                module.drop_prob = 0.0
        if norm is not None:
            _replace_batch_norms(net, norm)
        self._try()
        self.train()

    @torch.enable_grad()
    def _try(self) -> None:
        """Check the maps of an image, and freeze the parameters that do not reach them."""
        parameters = list(self.parameters())
        features = self.eval()(torch.zeros(1, 3, *_TRIED_SIZE, device=parameters[0].device))
        for channels, stride, feature in zip(self.out_channels, self.strides, features, strict=True):
            expected = (1, channels, *(side // stride for side in _TRIED_SIZE))
            if feature.shape != expected:
                raise ValueError(f"its map of stride {stride} has the shape {tuple(feature.shape)}, not {expected}")
        total = torch.stack([feature.sum() for feature in features]).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)

    def train(self, mode: bool = True) -> "TimmBody":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm) and self.norm is None:
                module.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return a map (N, out_channels[i], H / strides[i], W / strides[i]) for each stride, of images (N, 3, H, W).

        Raise InputError if a trained norm would see one value per channel.
        """
        if self.training and self.norm is not None:
            check_batch_norm_size(x, self.strides[-1], self.norm)
        features = self.net(x)
        return [features[number] for number in self.numbers]


def _replace_batch_norms(net: nn.Module, norm: type[nn.Module]) -> None:
    """Make every BatchNorm2d of `net` a `norm`; keep the activation that some networks of timm give to the norm."""

    class NormAct(norm):  # type: ignore[misc, valid-type]
        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.drop(super().forward(x)))

    for parent in list(net.modules()):
        for name, old in list(parent.named_children()):
            if not isinstance(old, nn.BatchNorm2d):
                continue
            has_activation = hasattr(old, "act")
            options = (old.num_features, old.eps, old.momentum, old.affine, old.track_running_stats)
            new = (NormAct if has_activation else norm)(*options)
            new.load_state_dict(old.state_dict())
            if has_activation:
                new.act, new.drop = old.act, old.drop
            setattr(parent, name, new)


@BACKBONES.register("timm:NAME")
def build_timm_fpn(cfg: Config) -> nn.Module:
    """Build timm's network NAME, without pretrained weights, with an FPN.

    Raise InputError if timm is not installed, or the network is unknown or lacks maps of the strides that an FPN needs.
    """
    model = cfg.MODEL
    levels = num_levels(cfg)
    checkpointed = model.BACKBONE.CHECKPOINT_STAGES
    require(not checkpointed, "MODEL.BACKBONE.CHECKPOINT_STAGES", checkpointed, "(): networks of timm do not have it")
    norm = batch_norm(cfg) if model.SYNCBN or model.USE_SYNCBN else None
    body = _body(model.BACKBONE.CONV_BODY, (8, 16, 32) if levels == 5 else (4, 8, 16, 32), norm)
    if model.WEIGHT:
        _note_input(cfg, body.net.model.pretrained_cfg)
    return body_with_neck(body, FPN(body.out_channels, model.RESNETS.BACKBONE_OUT_CHANNELS, levels))


def _note_input(cfg: Config, published: Mapping[str, Any]) -> None:
    """Warn if images are not prepared as timm's `published` weights of the network expect them."""
    mean, std = list(published["mean"]), list(published["std"])
    given = cfg.INPUT
    if given.TO_BGR255 or [list(given.PIXEL_MEAN), list(given.PIXEL_STD)] != [mean, std]:
        logger.warning(
            "timm's own weights of %s take RGB from 0 to 1: if MODEL.WEIGHT names them, set INPUT.TO_BGR255 False, "
            "INPUT.PIXEL_MEAN %s and INPUT.PIXEL_STD %s.",
            cfg.MODEL.BACKBONE.CONV_BODY,
            mean,
            std,
        )


def _body(conv_body: str, strides: Sequence[int], norm: type[nn.Module] | None) -> TimmBody:
    try:
        import timm
    except ImportError as error:
        command = "pip install 'timm>=1.0'"
        raise InputError(f"MODEL.BACKBONE.CONV_BODY '{conv_body}' needs timm: run `{command}`.") from error
    name = conv_body.removeprefix("timm:")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.0)[0]
        raise InputError(
            f"MODEL.BACKBONE.CONV_BODY '{conv_body}': timm has no network '{name}'; the nearest is '{near}'."
        )
    try:
        net = timm.create_model(name, pretrained=False, features_only=True, feature_cls="getter")
        return TimmBody(net, strides, norm)
    except Exception as error:  # each of timm's networks has its own way to refuse
        raise InputError(
            f"MODEL.BACKBONE.CONV_BODY '{conv_body}' cannot be the body of an FPN ({error}): choose a network with "
            f"maps of the strides {', '.join(map(str, strides))} for images of any size, such as 'timm:resnet50'."
        ) from error
