"""All contenders of an operator compute the same result."""

import pytest
import torch

from benchmarks import operators

CPU = torch.device("cpu")


def test_focal_losses_and_gradients_agree(monkeypatch):
    monkeypatch.setattr(operators, "_CACHE_BYTES", 1)
    monkeypatch.setattr(torch, "compile", lambda call, **options: call)  # compare the uncompiled code
    calls = operators.focal_loss_calls(50, torch.float32, CPU)
    losses, gradients = {}, {}
    for name, call in calls.items():
        losses[name] = call().item()
        *_, inputs = call.args
        # Two equal sets of logits take turns. Skip the second set; the next set is the first, which has a gradient.
        next(inputs)
        gradients[name] = next(inputs).grad
    assert losses["torchvision"] > 0
    assert losses == pytest.approx(dict.fromkeys(calls, losses["torchvision"]), rel=1e-5)
    for gradient in gradients.values():
        torch.testing.assert_close(gradient, gradients["torchvision"], rtol=1e-4, atol=1e-8)


def test_nms_keeps_about_as_many():
    # Our boxes include their last pixel, torchvision's do not, so some IoUs fall on the other side of the threshold.
    calls = operators.nms_calls(2, 200, CPU)
    ours, torchvisions = int(calls["ours"]().sum()), sum(map(len, calls["torchvision"]()))
    assert 40 <= torchvisions < 200  # at least one box of each of the 40 objects
    assert ours == pytest.approx(torchvisions, rel=0.05)


def test_target_assignments_agree():
    calls = operators.target_calls(2, 20, 96, 128, CPU)
    (labels, distances), (plain_labels, plain_distances) = calls["ours"](), calls["plain"]()
    assert torch.equal(labels, plain_labels) and (labels > 0).sum() > 20
    torch.testing.assert_close(distances[labels > 0], plain_distances[labels > 0])


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)
def test_normalizations_agree(device, monkeypatch):
    monkeypatch.setattr(operators, "_CACHE_BYTES", 1)
    calls = operators.group_norm_calls((2, 32, 5, 6), torch.float32, torch.device(device))
    outputs, gradients = {}, {}
    for name, call in calls.items():
        outputs[name] = call()
        *_, inputs = call.args
        # Two maps take turns. Skip the second map; the next map is the first, which was used.
        next(inputs)
        gradients[name] = next(inputs).grad.clone()
    assert outputs["PyTorch"].amin() == 0 < outputs["PyTorch"].amax()
    assert gradients["PyTorch"].abs().amax() > 0
    torch.testing.assert_close(outputs["ours"], outputs["PyTorch"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients["ours"], gradients["PyTorch"], rtol=1e-4, atol=1e-5)
