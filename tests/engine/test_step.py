"""Gradients of a batch taken in parts and in mixed precision, on a tiny detector."""

import copy

import pytest
import torch

from fcos_core.config import cfg
from fcos_core.engine.step import TrainingStep
from fcos_core.modeling.detector import build_detection_model
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ByteImages, ImageList, PixelNormalization

# Boxes of each image: a part may hold none, or an image without any.
BOXES = [[[2, 2, 40, 50], [30, 8, 60, 28]], [], [[10, 10, 30, 30]], [], []]


@pytest.fixture(scope="module")
def detector():
    config = cfg.clone()
    hrnet = {"WIDTH": 4, "STEM_CHANNELS": 8, "STAGE1_CHANNELS": 4, "NUM_MODULES": (1,) * 4, "NUM_BLOCKS": (1,) * 4}
    config.merge_from_list(["MODEL.BACKBONE.CONV_BODY", "HRNET", "MODEL.HRNET.FPN.OUT_CHANNEL", 64])
    config.merge_from_list([word for key, value in hrnet.items() for word in (f"MODEL.HRNET.{key}", value)])
    config.merge_from_list(["MODEL.FCOS.NUM_CLASSES", 3, "MODEL.FCOS.NUM_CONVS", 1])
    torch.manual_seed(0)
    return build_detection_model(config).train()


def batch(dtype):
    images = torch.randn(len(BOXES), 3, 64, 128, generator=torch.Generator().manual_seed(1), dtype=dtype)
    targets = []
    for boxes in BOXES:
        target = BoxList(torch.tensor(boxes, dtype=dtype).reshape(-1, 4), (128, 64))
        target.add_field("labels", torch.ones(len(boxes), dtype=torch.int64))
        targets.append(target)
    return ImageList(images, [(64, 128)] * len(BOXES)), targets


def take(detector, dtype, **options):
    """Losses and gradients of the batch."""
    model = copy.deepcopy(detector).to(dtype)
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.1), "cpu", model.assign_targets, **options)
    losses = step.compute_gradients(*batch(dtype))
    return losses, [parameter.grad for parameter in model.parameters()], step


@pytest.mark.parametrize("steps", [2, 3, 5])
@pytest.mark.parametrize(
    # The tolerances: float64 1e-9, float32 1e-5 for losses and 1e-2 for gradient norms.
    ("dtype", "loss_tolerance", "norm_tolerance"),
    [(torch.float64, 1e-9, 1e-9), (torch.float32, 1e-5, 1e-2)],
)
def test_parts_of_a_batch_give_the_gradients_of_the_whole(detector, steps, dtype, loss_tolerance, norm_tolerance):
    losses, gradients, _ = take(detector, dtype)
    losses_of_parts, gradients_of_parts, _ = take(detector, dtype, accumulate_steps=steps)
    for name, loss in losses.items():
        assert losses_of_parts[name].item() == pytest.approx(loss.item(), rel=loss_tolerance)
    for whole, parts in zip(gradients, gradients_of_parts, strict=True):
        assert (parts - whole).norm() <= norm_tolerance * whole.norm() + 1e-12


def test_parts_of_a_batch_of_bytes_are_normalized_one_after_another(detector):
    sizes = []

    class Normalization(PixelNormalization):
        def __call__(self, pixels):
            sizes.append(len(pixels))
            return super().__call__(pixels)

    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (len(BOXES), 3, 64, 64), generator=generator, dtype=torch.uint8)
    normalization = Normalization((100.0, 110.0, 120.0), (1.0, 1.0, 1.0), to_bgr255=True)
    images, targets = ByteImages(pixels, [(64, 64)] * len(BOXES), normalization), batch(torch.float32)[1]
    losses = []
    for steps in (1, 3):
        model = copy.deepcopy(detector)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        step = TrainingStep(model, optimizer, "cpu", model.assign_targets, accumulate_steps=steps)
        losses.append(step.compute_gradients(images, targets))
    assert sizes == [5, 1, 2, 2]
    for name, loss in losses[0].items():
        assert losses[1][name].item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("steps", [1, 3])
def test_targets_are_assigned_once_and_phases_reported(detector, steps):
    model, assigned, phases = copy.deepcopy(detector), [], []

    def assign_targets(padded_size, targets):
        assigned.append((padded_size, len(targets)))
        return model.assign_targets(padded_size, targets)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainingStep(model, optimizer, "cpu", assign_targets, accumulate_steps=steps)
    step.compute_gradients(*batch(torch.float32), phases.append)
    assert assigned == [((64, 128), len(BOXES))]
    assert phases == ["forward"] + ["forward", "backward"] * steps


def test_a_model_may_assign_its_targets_itself(detector):
    expected, _, step = take(detector, torch.float32)
    step.assign_targets = None
    assert step.compute_gradients(*batch(torch.float32)) == expected


def test_parts_need_the_normalizers_of_the_whole(detector):
    with pytest.raises(ValueError, match="accumulate_steps is 2: give assign_targets"):
        TrainingStep(detector, torch.optim.SGD(detector.parameters(), lr=0.1), "cpu", accumulate_steps=2)


@pytest.mark.parametrize(("precision", "unit"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_mixed_precision_computes_the_same_within_its_rounding(detector, precision, unit):
    losses, gradients, _ = take(detector, torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=precision == torch.float16)
    mixed_losses, mixed_gradients, step = take(detector, torch.float32, precision=precision, scaler=scaler)
    step.clip_gradient_norm = 1e9  # takes the scale out
    step.clip_gradients()
    # 30 roundings of a unit in a row, from image to loss.
    for name, loss in losses.items():
        assert mixed_losses[name].dtype == torch.float32
        assert mixed_losses[name].item() == pytest.approx(loss.item(), rel=30 * unit)
        assert mixed_losses[name].item() != loss.item()
    together, mixed = (torch.cat([g.flatten() for g in grads]) for grads in (gradients, mixed_gradients))
    assert torch.cosine_similarity(together, mixed, dim=0) > 1 - 30 * unit


def test_gradients_are_clipped_to_the_norm_asked_for(detector):
    _, gradients, step = take(detector, torch.float32, clip_gradient_norm=0.5)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert norm > 0.5
    assert step.clip_gradients().item() == pytest.approx(norm.item(), rel=1e-6)
    clipped = torch.cat([parameter.grad.flatten() for parameter in step.model.parameters()])
    assert clipped.norm().item() == pytest.approx(0.5, rel=1e-5)


def test_a_step_whose_float16_gradients_overflow_is_left_out(detector):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    _, _, step = take(detector, torch.float32, precision=torch.float16, scaler=scaler)
    before = [parameter.detach().clone() for parameter in step.model.parameters()]
    step.update()
    assert all(torch.equal(*pair) for pair in zip(before, step.model.parameters(), strict=True))
    assert scaler.get_scale() == 2.0**29
