"""A detector of random weights that finds something."""

import torch
from torch import nn

from fcos_core.config import Config
from fcos_core.layers.conv_norm import has_fixed_statistics
from fcos_core.layers.deform_conv import DFConv2d
from fcos_core.modeling.detector import Detector, build_detection_model


def build_random_detector(config: Config) -> Detector:
    """Build a detector with random norms, so that folding changes numbers, and with scores that differ."""
    torch.manual_seed(0)
    model = build_detection_model(config)
    for module in model.modules():
        if has_fixed_statistics(module):
            state = module.state_dict()
            module.load_state_dict({k: v * (1 + torch.rand(v.shape)) if v.ndim else v for k, v in state.items()})
        if isinstance(module, DFConv2d):
            # Of about a pixel: the large activations of random weights would place every sample outside the image.
            module.offset.weight.data *= 1e-3
            nn.init.normal_(module.offset.bias)
    nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.2)
    nn.init.normal_(model.rpn.head.bbox_pred.weight, std=0.05)
    nn.init.constant_(model.rpn.head.bbox_pred.bias, 2)
    return model
