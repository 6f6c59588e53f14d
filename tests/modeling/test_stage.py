"""Activation checkpointing of backbone stages."""

import pytest
import torch

from fcos_core.config import cfg
from fcos_core.errors import InputError
from fcos_core.modeling.backbone.hrnet import HighResolutionNet
from fcos_core.modeling.backbone.resnet import ResNet
from fcos_core.modeling.detector import build_detection_model

STAGES = (1, 2, 3, 4)


def hrnet(checkpointed):
    return HighResolutionNet(4, (1, 1, 2, 1), num_blocks=(1,) * 4, stage1_channels=4, checkpointed=checkpointed)


def resnet(checkpointed):
    return ResNet(50, width_per_group=4, checkpointed=checkpointed)


def deformable_resnet(checkpointed):
    options = {"deformable_stages": (2, 3, 4), "modulated": True}
    return ResNet(50, width_per_group=4, checkpointed=checkpointed, **options)


def outputs_and_gradients(make, checkpointed, dtype, precision=None):
    torch.manual_seed(0)
    body = make(checkpointed).to(dtype).train()
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1), dtype=dtype)
    with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
        outputs = body(images)
    sum(output.square().mean() for output in outputs).backward()
    # A second pass adds to the gradients, as a second part of a batch does.
    sum(output.square().mean() for output in body(images)).backward()
    return outputs, [parameter.grad for parameter in body.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("make", [hrnet, resnet, deformable_resnet])
@pytest.mark.parametrize("stages", [(3,), STAGES])
def test_checkpointing_changes_no_output_and_no_gradient(make, stages):
    found, expected = (outputs_and_gradients(make, chosen, torch.float64) for chosen in (stages, ()))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_checkpointing_changes_nothing_in_mixed_precision():
    found, expected = (outputs_and_gradients(hrnet, chosen, torch.float32, torch.bfloat16) for chosen in (STAGES, ()))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.HRNET.TRAIN_BN", True], r"\(2,\): write .* \(\) if BatchNorms are trained"),
        (["MODEL.SYNCBN", True], r"\(2,\): write .* \(\) if BatchNorms are trained"),
        (["MODEL.BACKBONE.CHECKPOINT_STAGES", (0, 2)], r"\(0, 2\): write stages of 1 to 4"),
    ],
)
def test_unusable_checkpoint_stages_are_refused(opts, message):
    config = cfg.clone()
    config.merge_from_list(["MODEL.BACKBONE.CONV_BODY", "HRNET-W18", "MODEL.BACKBONE.CHECKPOINT_STAGES", (2,), *opts])
    with torch.device("meta"), pytest.raises(InputError, match=message):
        build_detection_model(config)
