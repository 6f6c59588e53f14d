import pytest
import torch
from torch import nn

from fcos_core.layers import FrozenBatchNorm2d, IOULoss, Scale


def test_frozen_batch_norm_is_batch_norm_without_epsilon():
    torch.manual_seed(0)
    frozen, norm = FrozenBatchNorm2d(5).double(), nn.BatchNorm2d(5, eps=0).double().eval()
    state = {k: torch.rand(5, dtype=torch.float64) + 0.1 for k in frozen.state_dict()}
    frozen.load_state_dict(state)
    norm.load_state_dict(state, strict=False)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(frozen(x), norm(x))
    assert not list(frozen.parameters())


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


def test_iou_loss_gradient():
    torch.manual_seed(0)
    pred = (torch.rand(4, 4, dtype=torch.float64) + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(IOULoss(), (pred, torch.rand(4, 4, dtype=torch.float64) + 0.5))


@pytest.mark.parametrize("value", [1.0, 2.5])
def test_scale(value):
    scale = Scale(value)
    assert scale(torch.tensor([2.0])).tolist() == [2 * value]
    assert scale.scale.requires_grad
