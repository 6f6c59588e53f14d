"""Options of the head: normalized distances, quality on the tower of the boxes, deformable towers."""

import pytest
import torch
from torch import nn

from fcos_core.layers.deform_conv import DFConv2d
from fcos_core.modeling.fcos.box_coder import BoxCoder
from fcos_core.modeling.fcos.head import FCOSHead

STRIDES = [8, 16]


def features():
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 32, 6, 8), (2, 32, 3, 4)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def head(**options):
    """A head whose layers have larger weights than at the start, so that outputs differ from place to place."""
    torch.manual_seed(0)
    made = FCOSHead(32, num_classes=3, strides=STRIDES, num_convs=2, **options).double()
    for layer in (made.cls_logits, made.bbox_pred, made.centerness):
        nn.init.normal_(layer.weight, std=0.1)
    for level, scale in enumerate(made.scales):
        nn.init.constant_(scale.scale, 0.5 + level)
    return made


def test_normalized_distances_are_in_pixels():
    logarithms = head()(features())[1]
    normalized = head(coder=BoxCoder(normalized=True))(features())[1]
    for stride, logarithm, distances in zip(STRIDES, logarithms, normalized, strict=True):
        torch.testing.assert_close(distances, logarithm.log().clamp(min=0) * stride)
        assert 0 < (distances == 0).double().mean() < 1


def test_quality_on_the_tower_of_the_boxes():
    on_classes, on_boxes = head(), head(quality_on_boxes=True)
    nn.init.zeros_(on_classes.bbox_tower[0].weight)
    nn.init.zeros_(on_boxes.cls_tower[0].weight)
    on_boxes.bbox_tower.load_state_dict(on_classes.cls_tower.state_dict())
    logits, distances, quality = on_classes(features())
    other_logits, other_distances, other_quality = on_boxes(features())
    for level in range(2):
        torch.testing.assert_close(other_quality[level], quality[level])
        assert not torch.allclose(other_logits[level], logits[level])
        assert not torch.allclose(other_distances[level], distances[level])


@pytest.mark.parametrize("tower", ["cls_tower", "bbox_tower"])
def test_the_last_convolution_of_a_deformable_tower_without_offsets_is_a_plain_one(tower):
    deformable, plain = head(deformable=True), head()
    layers = getattr(deformable, tower)
    assert [isinstance(layer, DFConv2d) for layer in (layers[0], layers[3])] == [False, True]
    nn.init.zeros_(layers[3].offset.weight)
    nn.init.constant_(layers[3].offset.bias[18:], 40)  # a mask of 1
    state = {key.replace("3.conv.", "3."): value for key, value in layers.state_dict().items() if "offset" not in key}
    getattr(plain, tower).load_state_dict(state)
    for level in features():
        torch.testing.assert_close(layers(level), getattr(plain, tower)(level))


def test_offsets_start_as_published():
    offset = head(deformable=True).cls_tower[3].offset
    # Kaiming uniform with a = 1: the largest weight is sqrt(3 / inputs) of its 32 * 9 inputs.
    assert offset.weight.shape[0] == 27 and offset.bias.abs().max() == 0
    assert offset.weight.abs().max().item() == pytest.approx((3 / (32 * 9)) ** 0.5, rel=0.01)
