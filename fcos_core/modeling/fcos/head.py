"""The FCOS head (Tian et al. 2019, arXiv:1904.01355, fig. 2), shared by all levels."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fcos_core.layers.deform_conv import DFConv2d
from fcos_core.layers.group_norm_relu import group_norm_relu
from fcos_core.layers.own_dtype import GroupNorm, without_autocast
from fcos_core.layers.scale import Scale
from fcos_core.modeling.fcos.box_coder import BoxCoder
from fcos_core.utils.streams import parallel


class Tower(nn.Sequential):
    """3x3 convolutions of `channels` channels, a multiple of 32, each followed by GroupNorm of 32 groups and ReLU.

    The last convolution is a modulated deformable one if `deformable`. Checkpoints number the layers as convolution,
    norm, ReLU, convolution, ... `group_norm_relu` does the work of a norm and its ReLU.
    """

    def __init__(self, channels: int, num_convs: int, deformable: bool = False) -> None:
        layers: list[nn.Module] = []
        for number in range(1, num_convs + 1):
            if deformable and number == num_convs:
                conv: nn.Module = DFConv2d(channels, channels, bias=True)
            else:
                conv = nn.Conv2d(channels, channels, 3, padding=1)
            layers += [conv, GroupNorm(32, channels), nn.ReLU(inplace=True)]
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        layers = list(self)
        for conv, norm in zip(layers[0::3], layers[1::3], strict=True):
            x = group_norm_relu(conv(x), norm)
        return x


class FCOSHead(nn.Module):
    """Classification on one tower of convolutions, regression on another one, and box quality on one of the two.

    Args:
        in_channels: channels of every level, a multiple of 32.
        num_classes: foreground classes.
        strides: in pixels, one per level; each level has its own regression scale.
        num_convs: 3x3 convolutions in each tower.
        prior_prob: initial probability of every class.
        coder: turns the output of the regression into distances.
        quality_on_boxes: predict the quality (the layer `centerness`) on the tower of the regression.
        deformable: see `Tower`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        strides: Sequence[int],
        num_convs: int = 4,
        prior_prob: float = 0.01,
        coder: BoxCoder | None = None,
        quality_on_boxes: bool = False,
        deformable: bool = False,
    ) -> None:
        super().__init__()
        self.strides, self.coder, self.quality_on_boxes = tuple(strides), coder or BoxCoder(), quality_on_boxes
        self.cls_tower = Tower(in_channels, num_convs, deformable)
        self.bbox_tower = Tower(in_channels, num_convs, deformable)
        self.cls_logits = nn.Conv2d(in_channels, num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.centerness = nn.Conv2d(in_channels, 1, 3, padding=1)
        own_init = {part for module in self.modules() if isinstance(module, DFConv2d) for part in module.modules()}
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module not in own_init:
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - prior_prob) / prior_prob))
        self.scales = nn.ModuleList(Scale() for _ in strides)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return three lists over the levels (N, in_channels, H_l, W_l) of `features`.

        They are class logits (N, num_classes, H_l, W_l); distances (left, top, right, bottom) in pixels
        (N, 4, H_l, W_l); logits of the box quality (N, 1, H_l, W_l).
        """
        levels = list(zip(features, self.scales, self.strides, strict=True))
        classify = [partial(self._classify, feature) for feature, _, _ in levels]
        regress = [partial(self._regress, *level) for level in levels]
        outputs = parallel(classify + regress)
        logits, quality = (list(level) for level in zip(*outputs[: len(levels)], strict=True))
        distances, quality_on_boxes = (list(level) for level in zip(*outputs[len(levels) :], strict=True))
        return logits, distances, quality_on_boxes if self.quality_on_boxes else quality

    def _classify(self, feature: Tensor) -> tuple[Tensor, Tensor | None]:
        tower = self.cls_tower(feature)
        return self.cls_logits(tower), None if self.quality_on_boxes else self.centerness(tower)

    def _regress(self, feature: Tensor, scale: Scale, stride: int) -> tuple[Tensor, Tensor | None]:
        tower = self.bbox_tower(feature)
        quality = self.centerness(tower) if self.quality_on_boxes else None
        # In float32, as the exponential would turn an error of the logarithm, 0.03 in bfloat16, into 3% of a distance.
        with without_autocast(tower):
            predicted = self.bbox_pred(tower.to(torch.promote_types(tower.dtype, self.bbox_pred.weight.dtype)))
            return self.coder.distances(scale(predicted), stride), quality
