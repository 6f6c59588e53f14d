"""Locations, targets, losses and post-processing, against values worked out by hand."""

import math

import pytest
import torch

from fcos_core.errors import InputError
from fcos_core.modeling.fcos.head import FCOSHead
from fcos_core.modeling.fcos.locations import compute_locations
from fcos_core.modeling.fcos.loss import FCOSLoss
from fcos_core.modeling.fcos.postprocess import FCOSPostProcessor
from fcos_core.modeling.fcos.targets import TargetAssigner, assign_targets, centerness_targets
from fcos_core.structures.bounding_box import BoxList

RANGES = [(-1, 16), (16, 1000)]
PARTS = [slice(0, 1), slice(1, 3)]


def target(boxes, labels, size=(64, 64)):
    box_list = BoxList(torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4), size)
    box_list.add_field("labels", torch.tensor(labels, dtype=torch.int64))
    return box_list


def test_locations_stand_in_the_middle_of_their_cells():
    (first, second) = compute_locations([torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 1)], [8, 16])
    assert first.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    assert second.tolist() == [[8, 8]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_locations_are_exact_where_features_are_not(dtype):
    # bfloat16 has 8 significant bits, so that 1004 would be 1000 or 1008 in it.
    (locations,) = compute_locations([torch.zeros(1, 1, 1, 126, dtype=dtype)], [8])
    assert locations.dtype == torch.float32
    assert locations[-1].tolist() == [1004, 4]


@pytest.fixture
def points():
    return [torch.tensor([[8.0, 8.0], [20.0, 8.0]]).double(), torch.tensor([[16.0, 16.0]]).double()]


def test_smallest_box_wins_and_ranges_decide_levels(points):
    boxes = target([[0, 0, 40, 40], [4, 4, 14, 14]], [1, 2])
    labels, distances = assign_targets(points, RANGES, [boxes])
    # (8, 8) is in both: the small one's largest distance is 6, within (-1, 16). (20, 8) is in the large one
    # alone, whose largest distance 32 belongs to the second level. (16, 16): largest is 24, second level.
    assert labels.tolist() == [[2, 0, 1]]
    assert distances[0, 0].tolist() == [4, 4, 6, 6]
    assert distances[0, 2].tolist() == [16, 16, 24, 24]


@pytest.mark.parametrize(("right", "label"), [(24, 1), (24.5, 0)])
def test_ends_of_a_range_are_included(points, right, label):
    # From (8, 8) the largest distance is right - 8; the first level takes up to 16.
    labels, _ = assign_targets(points, RANGES, [target([[0, 0, right, 16]], [1])])
    assert labels[0, 0] == label


def test_a_location_on_the_border_is_outside(points):
    labels, _ = assign_targets(points, RANGES, [target([[8, 0, 20, 12]], [1])])
    assert labels.tolist() == [[0, 0, 0]]


def test_equal_areas_go_to_the_first_box(points):
    labels, _ = assign_targets(points, RANGES, [target([[0, 0, 16, 16], [2, 2, 18, 18]], [3, 4])])
    assert labels[0, 0] == 3


def test_image_without_boxes_is_background(points):
    labels, _ = assign_targets(points, RANGES, [target([], []), target([[0, 0, 16, 16]], [1])])
    assert labels.tolist() == [[0, 0, 0], [1, 0, 0]]


def test_centerness():
    # sqrt(1/3 * 2/4): equation 3 of FCOS at (l, t, r, b) = (1, 4, 3, 2).
    distances = torch.tensor([[1.0, 4.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    assert centerness_targets(distances).tolist() == pytest.approx([math.sqrt(1 / 6), 1])


def test_boxes_without_labels_are_refused(points):
    with pytest.raises(InputError, match=r"add_field\('labels', labels\)"):
        assign_targets(points, RANGES, [BoxList([[0, 0, 16, 16]], (64, 64))])


def assign(targets, device="cpu", radius=0.0):
    """Targets on the levels of `outputs`: locations (8, 8) and (24, 8) of stride 16, (16, 16) of stride 32."""
    return TargetAssigner([16, 32], RANGES, radius)(
        [(1, 2), (1, 1)], (32, 32), targets, torch.float64, torch.device(device)
    )


def outputs(num_images):
    generator = torch.Generator().manual_seed(0)
    shapes = [(num_images, channels, 1, cells) for channels in (3, 4, 1) for cells in (2, 1)]
    tensors = [torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    return tensors[0:2], tensors[2:4], tensors[4:6]


def test_losses_of_one_positive():
    logits, bbox_reg, centerness = outputs(1)
    losses = FCOSLoss(2.0, 0.25)(logits, bbox_reg, centerness, assign([target([[0, 0, 16, 16]], [2])]))
    # (8, 8) alone is positive, at the box's centre: weight 1, distances 8; all normalizers are then known.
    predicted = bbox_reg[0][0, :, 0, 0]
    intersection = (predicted[0] + predicted[2]) * (predicted[1] + predicted[3])  # all predicted ones are below 8
    assert losses["loss_reg"].item() == pytest.approx(-math.log((intersection.item() + 1) / (16 * 16 + 1)))
    score = centerness[0][0, 0, 0, 0].sigmoid().item()
    assert losses["loss_centerness"].item() == pytest.approx(-math.log(score))
    expected = 0.0
    for location, cell in enumerate([logits[0][0, :, 0, 0], logits[0][0, :, 0, 1], logits[1][0, :, 0, 0]]):
        for label, p in enumerate(cell.sigmoid().tolist(), start=1):
            if location == 0 and label == 2:
                expected -= 0.25 * (1 - p) ** 2 * math.log(p)
            else:
                expected -= 0.75 * p**2 * math.log(1 - p)
    assert losses["loss_cls"].item() == pytest.approx(expected / (1 + 1))  # one positive and one image


def test_without_boxes_losses_are_zero_and_connected():
    logits, bbox_reg, centerness = outputs(2)
    losses = FCOSLoss(2.0, 0.25)(logits, bbox_reg, centerness, assign([target([], [])] * 2))
    assert losses["loss_reg"] == 0 and losses["loss_centerness"] == 0
    sum(losses.values()).backward()
    assert all(tensor.grad.abs().sum() == 0 for tensor in [*bbox_reg, *centerness])
    assert all(tensor.grad.abs().sum() > 0 for tensor in logits)


def test_unbounded_predictions_of_background_do_no_harm():
    logits, bbox_reg, centerness = outputs(1)
    targets = assign([target([[0, 0, 16, 16]], [2])])
    expected = FCOSLoss(2.0, 0.25)(logits, bbox_reg, centerness, targets)
    with torch.no_grad():  # (8, 8) alone is positive
        bbox_reg[0][..., 1:] = centerness[0][..., 1:] = torch.inf
        bbox_reg[1][:] = centerness[1][:] = torch.nan
    losses = FCOSLoss(2.0, 0.25)(logits, bbox_reg, centerness, targets)
    sum(losses.values()).backward()
    assert {name: loss.item() for name, loss in losses.items()} == {n: loss.item() for n, loss in expected.items()}
    assert all(torch.isfinite(tensor.grad).all() for tensor in [*bbox_reg, *centerness])


def test_parts_of_assigned_targets_keep_the_normalizers_of_the_whole():
    targets = [target([[0, 0, 16, 16]], [2]), target([], []), target([[0, 0, 40, 40]], [1])]
    whole = assign(targets)
    assert whole.labels.tolist() == [[2, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert len(whole) == 3 and len(whole[1:]) == 2
    # (8, 8) is the first box's centre; (16, 16) has distances 16, 16, 24, 24 in the other one.
    centerness = [1, 16 / 24]
    assert [value.item() for value in whole.normalizers] == pytest.approx([2, 3, sum(centerness), 2])
    assert whole.centerness[whole.labels > 0].tolist() == pytest.approx(centerness)
    assert (whole.distances[whole.labels == 0] == 1).all() and (whole.centerness[whole.labels == 0] == 0).all()
    part = whole[1:]
    assert torch.equal(part.labels, whole.labels[1:]) and torch.equal(part.distances, whole.distances[1:])
    assert torch.equal(part.centerness, whole.centerness[1:]) and part.normalizers is whole.normalizers


def test_losses_of_parts_add_up_to_those_of_the_whole():
    targets = assign([target([[0, 0, 16, 16]], [2]), target([], []), target([[0, 0, 40, 40]], [1])])
    levels, loss = outputs(3), FCOSLoss(2.0, 0.25)
    whole = loss(*levels, targets)
    parts = [loss(*([level[part] for level in kind] for kind in levels), targets[part]) for part in PARTS]
    for name, value in whole.items():
        assert sum(losses[name] for losses in parts).item() == pytest.approx(value.item(), rel=1e-12)


def test_targets_of_other_level_sizes_are_refused():
    assigned = assign([target([], [])])
    levels = [[level.transpose(2, 3) for level in kind] for kind in outputs(1)]
    with pytest.raises(
        InputError, match=r"\[\(2, 1\), \(1, 1\)\].*\[\(1, 2\), \(1, 1\)\].*level_sizes\(height, width\)"
    ):
        FCOSLoss(2.0, 0.25)(*levels, assigned)


def test_memory_formats_of_the_head_give_the_same_losses():
    generator = torch.Generator().manual_seed(1)
    head = [torch.rand(2, channels, 4, 6, generator=generator, dtype=torch.float64) for channels in (3, 4, 1)]
    targets = [target([[2, 2, 30, 20], [8, 8, 40, 28]], [1, 3]), target([[5, 1, 33, 30]], [2])]
    assigned = TargetAssigner([8], [(-1, 1000)])([(4, 6)], (32, 48), targets, torch.float64, torch.device("cpu"))
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        tensors = [tensor.clone(memory_format=memory_format).requires_grad_() for tensor in head]
        losses = FCOSLoss(2.0, 0.25)(*([tensor] for tensor in tensors), assigned)
        sum(losses.values()).backward()
        results.append([*losses.values(), *(tensor.grad for tensor in tensors)])
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-15)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("radius", "options"), [(0.0, ()), (1.5, ("giou", True, "iou", "positives"))])
def test_losses_do_not_wait_for_the_device(radius, options):
    levels = [[tensor.detach().cuda().requires_grad_() for tensor in level] for level in outputs(2)]
    targets = [target([[0, 0, 16, 16]], [2]).to("cuda"), target([], []).to("cuda")]
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(FCOSLoss(2.0, 0.25, *options)(*levels, assign(targets, "cuda", radius)).values()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def one_level(scores, distances=8.0, top_n=1000, kept=100):
    """Detections from class probabilities (C, H, W) with centerness 1 and one box size, on a stride of 8."""
    logits = torch.tensor(scores, dtype=torch.float64).logit()[None]
    height, width = logits.shape[-2:]
    bbox_reg = torch.full((1, 4, height, width), distances, dtype=torch.float64)
    centerness = torch.full((1, 1, height, width), torch.inf, dtype=torch.float64)
    locations = compute_locations([logits], [8])
    processor = FCOSPostProcessor(0.05, top_n, 0.6, kept)
    return processor(locations, [logits], [bbox_reg], [centerness], [(20, 30)])[0]


def test_boxes_are_decoded_and_clipped_to_the_image():
    # Location (4, 4), distances 8: (-4, -4, 12, 12), clipped below at 0.
    found = one_level([[[0.9]], [[0.01]]])
    assert found.bbox.tolist() == [[0, 0, 12, 12]]
    assert found.get_field("labels").tolist() == [1]
    assert found.get_field("scores").tolist() == pytest.approx([0.9])
    assert found.size == (30, 20)
    # Far out to the right and bottom it ends at the last pixel.
    assert one_level([[[0.9]]], distances=99.0).bbox.tolist() == [[0, 0, 29, 19]]


def test_suppression_is_per_class():
    # Two locations 8 apart with boxes 17 x 17 (inclusive) and more: IoU of clipped boxes (0..24) and (0..29)
    # is 25 * 20 / (30 * 20) = 0.83, above 0.6; the second class at the same place stays.
    found = one_level([[[0.9, 0.8]], [[0.7, 0.01]]], distances=20.0)
    assert found.get_field("labels").tolist() == [1, 2]
    assert found.get_field("scores").tolist() == pytest.approx([0.9, 0.7])


def test_equal_scores_go_to_the_earlier_location_and_class_and_capacity_is_exact():
    equal = [[[0.5, 0.5, 0.5, 0.5]], [[0.5, 0.5, 0.5, 0.5]]]
    found = one_level(equal, distances=1.0, kept=3)
    assert found.get_field("labels").tolist() == [1, 2, 1]
    assert found.bbox[:, 0].tolist() == [3, 3, 11]
    limited = one_level(equal, distances=1.0, top_n=3)
    assert limited.get_field("labels").tolist() == [1, 2, 1]


def test_nothing_above_the_threshold_gives_an_empty_list():
    found = one_level([[[0.01]]])
    assert len(found) == 0 and found.get_field("labels").dtype == torch.int64


def test_head_starts_at_the_prior():
    torch.manual_seed(0)
    head = FCOSHead(64, num_classes=5, strides=[8, 16], prior_prob=0.01)
    features = [torch.zeros(2, 64, 4, 4), torch.zeros(2, 64, 2, 2)]
    logits, bbox_reg, centerness = head(features)
    # Zero features leave the biases: the prior, exp(0) and 0.
    assert torch.allclose(logits[0].sigmoid(), torch.tensor(0.01))
    assert bbox_reg[1].eq(1).all() and centerness[0].eq(0).all()
    assert [tuple(level.shape) for level in logits] == [(2, 5, 4, 4), (2, 5, 2, 2)]
