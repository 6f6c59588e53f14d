import math

import pytest
import torch

from fcos_core.layers import FrozenBatchNorm2d, IOULoss, Scale
from fcos_core.layers.own_dtype import GroupNorm


def test_frozen_batch_norm_is_the_formula_without_epsilon():
    torch.manual_seed(0)
    norm = FrozenBatchNorm2d(5).double()
    norm.load_state_dict({key: torch.rand(5, dtype=torch.float64) + 0.1 for key in norm.state_dict()})
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    weight, bias, mean, variance = (
        vector.view(5, 1, 1) for vector in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    torch.testing.assert_close(norm(x), (x - mean) / variance.sqrt() * weight + bias)
    assert not list(norm.parameters())


def test_iou_loss_by_hand():
    # Areas (2+2)(2+2)=16 and (1+3)(2+2)=16, intersection (1+2)(2+2)=12, union 20: -log(13/21).
    pred, target = torch.tensor([[2.0, 2, 2, 2]]), torch.tensor([[1.0, 2, 3, 2]])
    expected = -torch.log(torch.tensor(13 / 21))
    torch.testing.assert_close(IOULoss()(pred, target), expected)
    torch.testing.assert_close(IOULoss()(pred, pred), torch.tensor(0.0))


def test_iou_loss_weights_are_shares():
    pred, target = torch.rand(6, 4) + 0.1, torch.rand(6, 4) + 0.1
    weight = torch.tensor([1.0, 1, 0, 0, 0, 0])
    torch.testing.assert_close(IOULoss()(pred, target, weight), IOULoss()(pred[:2], target[:2]))
    torch.testing.assert_close(IOULoss()(pred, target, torch.full((6,), 3.0)), IOULoss()(pred, target))
    torch.testing.assert_close(IOULoss()(pred, target, torch.zeros(6)), IOULoss()(pred, target))
    assert IOULoss()(torch.zeros(0, 4), torch.zeros(0, 4)) == 0


def test_iou_losses_of_other_types_by_hand():
    # Boxes of 10 x 10 whose centers are 5 apart on one axis: intersection 50, union 150, 15 x 10 around both.
    pred, target = torch.tensor([[5.0, 5, 5, 5]]), torch.tensor([[0.0, 5, 10, 5]])
    iou = 51 / 151
    assert IOULoss("iou")(pred, target).item() == pytest.approx(-math.log(iou), rel=1e-6)
    assert IOULoss("linear_iou")(pred, target).item() == pytest.approx(1 - iou, rel=1e-6)
    assert IOULoss("giou")(pred, target).item() == pytest.approx(1 - iou, rel=1e-6)
    # The second is 10 x 18: union 100 + 180 - 50 = 230, and 15 x 18 = 270 around both.
    taller = torch.tensor([[0.0, 9, 10, 9]])
    wanted = 1 - 51 / 231 + (270 - 230) / 270
    assert IOULoss("giou")(pred, taller).item() == pytest.approx(wanted, rel=1e-6)
    # Distance- and Complete-IoU loss without + 1: 25 is the squared distance of the centers, 15^2 + 18^2 the squared
    # diagonal of the box around both. The shapes differ: width / height is 1 and 10 / 18.
    distance = 1 - 50 / 230 + 25 / (15**2 + 18**2)
    assert IOULoss("diou")(pred, taller).item() == pytest.approx(distance, rel=1e-6)
    shapes = 4 / math.pi**2 * (math.atan(10 / 18) - math.atan(1)) ** 2
    wanted = distance + shapes**2 / (1 - 50 / 230 + shapes)
    assert IOULoss("ciou")(pred, taller).item() == pytest.approx(wanted, rel=1e-6)
    with pytest.raises(ValueError, match="one of iou, linear_iou, giou, diou, ciou, not 'eiou'"):
        IOULoss("eiou")


@pytest.mark.parametrize("loss_type", ["iou", "linear_iou", "giou", "diou"])
def test_iou_loss_gradient(loss_type):
    torch.manual_seed(0)
    pred = (torch.rand(4, 4, dtype=torch.float64) + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(IOULoss(loss_type), (pred, torch.rand(4, 4, dtype=torch.float64) + 0.5))


@pytest.mark.parametrize("value", [1.0, 2.5])
def test_scale(value):
    scale = Scale(value)
    assert scale(torch.tensor([2.0])).tolist() == [2 * value]
    assert scale.scale.requires_grad


def test_group_norm_of_one_value_is_the_bias_for_any_number_of_images():
    torch.manual_seed(0)
    norm = GroupNorm(32, 32).double()
    norm.load_state_dict({key: torch.randn(32, dtype=torch.float64) for key in norm.state_dict()})
    x = torch.randn(3, 32, 1, 1, dtype=torch.float64, requires_grad=True)
    # The value minus the mean of its group, which is itself, is 0.
    torch.testing.assert_close(norm(x), norm.bias[:, None, None].expand_as(x))
    torch.testing.assert_close(norm(x[:1]), norm(x)[:1])
    norm(x[:1]).sum().backward()
    assert x.grad.abs().max() < 1e-10
