"""Non-maximum suppression: the compiled kernels against the pure PyTorch definition, and both against the rule."""

import pytest
import torch
from compiled_kernels import require_kernel
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos_core.layers.nms import batched_nms, nms, nms_mask, nms_mask_reference

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]
IMPLEMENTATIONS = {"operator": nms_mask, "definition": nms_mask_reference}


def random_boxes(n, groups, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator, dtype=dtype) * 60
    size = torch.rand(n, 2, generator=generator, dtype=dtype) * 50
    scores = torch.rand(n, generator=generator, dtype=dtype)
    return torch.cat([corner, corner + size], 1), scores, torch.randint(groups, (n,), generator=generator)


def far(n):
    """Scores (n,) and one group, for boxes apart from each other."""
    return torch.arange(n, 0, -1).float(), torch.zeros(n, dtype=torch.int64)


def cases():
    def zeros(n):
        return torch.zeros(n, dtype=torch.int64)

    boxes, scores, groups = random_boxes(300, 7, seed=0)
    nan_boxes, nan_scores = boxes.clone(), scores.clone()
    nan_boxes[::9, 1] = float("nan")
    nan_scores[::11] = float("nan")
    empty_slots = scores.clone()
    empty_slots[::3] = -float("inf")
    infinite = boxes.clone()
    infinite[::5, 2:] = float("inf")
    infinite[::7, :2] = -float("inf")
    return {
        "empty": (torch.zeros(0, 4), torch.zeros(0), zeros(0)),
        "one box": (torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([0.5]), zeros(1)),
        "random": (boxes, scores, groups),
        "random float64": random_boxes(300, 7, seed=1, dtype=torch.float64),
        "float16 scores": (boxes, scores.half(), groups),
        "one group": (boxes, scores, zeros(300)),
        "a group each": (boxes, scores, torch.arange(300)),
        "negative groups": (boxes, scores, groups - 3),
        "equal scores": (boxes, torch.full((300,), 0.5), groups),
        "few scores": (boxes, (scores * 4).round(), groups),
        "identical boxes": (boxes[:1].expand(300, 4), scores, groups),
        "zero-size boxes": (torch.cat([boxes[:, :2], boxes[:, :2]], 1).round(), scores, groups),
        "inverted boxes": (boxes.flip(1), scores, groups),
        "NaN boxes": (nan_boxes, scores, groups),
        "NaN scores": (boxes, nan_scores, groups),
        "infinite boxes": (infinite, scores, groups),
        "empty slots": (boxes, empty_slots, groups),
        "empty slots alone": (boxes, torch.full((300,), -float("inf")), groups),
        "longer than a thread block": random_boxes(1500, 2, seed=2),
        "nothing suppressed for long": (torch.arange(1200.0).repeat_interleave(4).reshape(-1, 4) * 3, *far(1200)),
        "strided": (boxes.repeat(1, 2)[:, ::2], scores.repeat_interleave(2)[::2], groups.repeat_interleave(2)[::2]),
    }


CASES = cases()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("case", CASES)
def test_kernel_equals_definition(case, threshold, device):
    require_kernel("nms_mask", device)
    boxes, scores, groups = CASES[case]
    expected = nms_mask_reference(boxes, scores, groups, threshold)
    keep = torch.ops.fcos_core.nms_mask(boxes.to(device), scores.to(device), groups.to(device), threshold)
    assert keep.dtype == torch.bool
    assert keep.cpu().tolist() == expected.tolist()


@pytest.mark.parametrize("device", DEVICES)
def test_many_boxes_in_many_groups(device):
    """The size of a full evaluation batch: 8 images of 80 classes, 40,000 candidates."""
    require_kernel("nms_mask", device)
    boxes, scores, groups = random_boxes(40_000, 640, seed=3)
    keep = torch.ops.fcos_core.nms_mask(boxes.to(device), scores.to(device), groups.to(device), 0.6).cpu()
    chosen = [0, 321, 639]
    for group in chosen:
        inside = groups == group
        expected = nms_mask_reference(boxes[inside], scores[inside], groups[inside], 0.6)
        assert not expected.all()
        assert keep[inside].tolist() == expected.tolist()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_corner_pixels_count_and_the_threshold_itself_does_not_suppress(implementation, dtype, device):
    # widths 9 - 0 + 1 = 10 and 5 - 0 + 1 = 6, both heights 7 - 0 + 1 = 8: areas 80 and 48, the second inside the
    # first, IoU 48 / (80 + 48 - 48) = 0.6 exactly. Without the corner pixels it would be 35 / 63 = 0.556.
    boxes = torch.tensor([[0, 0, 9, 7], [0, 0, 5, 7]], dtype=dtype, device=device)
    scores = torch.tensor([0.9, 0.8], dtype=dtype, device=device)
    groups = torch.zeros(2, dtype=torch.int64, device=device)
    mask = IMPLEMENTATIONS[implementation]
    assert mask(boxes, scores, groups, 0.6).tolist() == [True, True]
    assert mask(boxes, scores, groups, 0.599).tolist() == [True, False]


@pytest.mark.parametrize("device", DEVICES)
def test_equal_scores_go_to_the_lower_index(device):
    # three times the same box and one apart: of the three the first is kept, and 3 comes before 0 by its score
    boxes = torch.tensor([[0, 0, 9, 9]] * 3 + [[50, 50, 59, 59]], dtype=torch.float32, device=device)
    scores = torch.tensor([0.5, 0.5, 0.5, 0.7], device=device)
    assert nms(boxes, scores, 0.5).tolist() == [3, 0]
    # with every group different nothing is suppressed, and the equal ones stay in the order of the input
    groups = torch.arange(4, device=device)
    assert batched_nms(boxes, scores, groups, 0.5).tolist() == [3, 0, 1, 2]


@pytest.mark.parametrize("device", DEVICES)
def test_far_away_boxes_keep_their_float32_digits(device):
    # Same overlap as above at x = 4,000,000, where float32 still holds whole pixels; a class offset of some
    # multiple of that would round them away.
    boxes = torch.tensor([[4e6, 0, 4e6 + 9, 7], [4e6, 0, 4e6 + 5, 7]], device=device).repeat(80, 1)
    scores = torch.tensor([0.9, 0.8], device=device).repeat(80)
    groups = torch.arange(80, device=device).repeat_interleave(2)
    assert len(batched_nms(boxes, scores, groups, 0.6)) == 160
    assert len(batched_nms(boxes, scores, groups, 0.599)) == 80


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_boxes_are_compared_in_float32(dtype, device):
    boxes, scores, groups = random_boxes(200, 3, seed=4)
    boxes, scores, groups = boxes.to(device, dtype), scores.to(device), groups.to(device)
    expected = batched_nms(boxes.float(), scores, groups, 0.4)
    assert 0 < len(expected) < 200
    assert batched_nms(boxes, scores, groups, 0.4).tolist() == expected.tolist()


@pytest.mark.parametrize("device", DEVICES)
def test_empty(device):
    kept = nms(torch.zeros(0, 4, device=device), torch.zeros(0, device=device), 0.5)
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64
    assert kept.device.type == device


@pytest.mark.parametrize("device", DEVICES)
def test_images_of_a_fixed_number_of_slots(device):
    """Images padded with empty slots in one call: each as if it were alone."""
    classes, images = 3, [random_boxes(n, 3, seed=n) for n in (40, 0, 25)]
    boxes, scores = torch.zeros(3, 50, 4), torch.full((3, 50), -float("inf"))
    groups = torch.zeros(3, 50, dtype=torch.int64)
    for i, (image_boxes, image_scores, labels) in enumerate(images):
        n = len(labels)
        boxes[i, :n], scores[i, :n], groups[i, :n] = image_boxes, image_scores, labels + i * classes
    keep = nms_mask(boxes.flatten(0, 1).to(device), scores.flatten().to(device), groups.flatten().to(device), 0.3)
    for mask, image in zip(keep.cpu().reshape(3, 50), images, strict=True):
        assert mask.nonzero().flatten().tolist() == sorted(batched_nms(*image, 0.3).tolist())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_in_a_cuda_graph_and_without_waiting_for_the_device():
    boxes, scores, groups = (tensor.cuda() for tensor in random_boxes(2000, 5, seed=6))
    torch.cuda.set_sync_debug_mode("error")
    try:
        nms_mask(boxes, scores, groups, 0.6)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        keep = nms_mask(boxes, scores, groups, 0.6)
    for seed in (7, 8):
        for static, new in zip((boxes, scores, groups), random_boxes(2000, 5, seed), strict=True):
            static.copy_(new)
        graph.replay()
        assert keep.tolist() == nms_mask_reference(*random_boxes(2000, 5, seed), 0.6).tolist()


@pytest.mark.parametrize("device", DEVICES)
def test_boxes_that_require_grad(device):
    boxes, scores, _ = random_boxes(50, 1, seed=5)
    expected = nms(boxes, scores, 0.3)
    kept = nms(boxes.to(device).requires_grad_(), scores.to(device).requires_grad_(), 0.3)
    assert not kept.requires_grad
    assert kept.tolist() == expected.tolist()


BOXES, SCORES, GROUPS = torch.zeros(3, 4), torch.zeros(3), torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, 5), SCORES, GROUPS, 0.5), r"boxes must have shape \(N, 4\), they have \[3, 5\]"),
        ((torch.zeros(4), SCORES, GROUPS, 0.5), r"boxes must have shape \(N, 4\), they have \[4\]"),
        ((BOXES.long(), SCORES, GROUPS, 0.5), "boxes must be float32 or float64"),
        ((BOXES, torch.zeros(2), GROUPS, 0.5), r"scores must have shape \(3,\), one per box, they have \[2\]"),
        ((BOXES, SCORES.long(), GROUPS, 0.5), "scores must be floating point"),
        ((BOXES, SCORES, GROUPS[:2], 0.5), r"groups must have shape \(3,\), one per box, they have \[2\]"),
        ((BOXES, SCORES, GROUPS.int(), 0.5), "groups must be int64"),
        ((BOXES, SCORES, GROUPS, -0.1), "iou_threshold must be 0 or greater, it is -0.1"),
        ((BOXES, SCORES, GROUPS, float("nan")), "iou_threshold must be 0 or greater, it is nan"),
    ],
)
def test_wrong_input_is_named(arguments, message, implementation, device):
    *tensors, threshold = arguments
    with pytest.raises(RuntimeError, match=message):
        IMPLEMENTATIONS[implementation](*(tensor.to(device) for tensor in tensors), threshold)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "tensors",
    [
        (torch.zeros(3, 5), SCORES, GROUPS),
        (torch.zeros(4), SCORES, GROUPS),
        (BOXES, torch.zeros(2), GROUPS),
        (BOXES, SCORES, GROUPS[:2]),
    ],
)
def test_kernel_refuses_sizes_that_would_be_read_out_of_bounds(tensors, device):
    require_kernel("nms_mask", device)
    with pytest.raises(RuntimeError, match="do not fit together"):
        torch.ops.fcos_core.nms_mask(*(tensor.to(device) for tensor in tensors), 0.5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", ["empty", "one box", "random", "random float64", "strided"])
def test_opcheck(case, device):
    tensors = (tensor.to(device) for tensor in CASES[case])
    torch.library.opcheck(torch.ops.fcos_core.nms_mask.default, (*tensors, 0.5))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic, device):
    def masked_scores(boxes, scores, groups):
        return scores * nms_mask(boxes * 2, scores, groups, 0.5)

    inputs = [tensor.to(device) for tensor in CASES["random"]]
    compiled = torch.compile(masked_scores, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), masked_scores(*inputs), rtol=0, atol=0)


# The properties below are those of the rule itself, on whole-pixel float64 boxes whose IoU plain Python numbers give
# with the same rounding.

box_sets = st.lists(
    st.tuples(
        st.integers(-20, 20),
        st.integers(-20, 20),
        st.integers(0, 15),
        st.integers(0, 15),
        st.sampled_from([0.1, 0.5, 0.5000001, 0.9]) | st.floats(0, 1),
        st.integers(-1, 2),
    ),
    max_size=40,
)
thresholds = st.sampled_from([0.0, 0.25, 0.5, 0.6, 1.0]) | st.floats(0, 1)
examples = settings(max_examples=60, deadline=None, derandomize=True)


def tensors_of(box_set, device):
    boxes = [[x, y, x + w, y + h] for x, y, w, h, _, _ in box_set]
    return (
        torch.tensor(boxes, dtype=torch.float64, device=device).reshape(-1, 4),
        torch.tensor([row[4] for row in box_set], dtype=torch.float64, device=device),
        torch.tensor([row[5] for row in box_set], dtype=torch.int64, device=device),
    )


def iou(a, b):
    ax, ay, aw, ah = a[:4]
    bx, by, bw, bh = b[:4]
    width = min(ax + aw, bx + bw) - max(ax, bx) + 1
    height = min(ay + ah, by + bh) - max(ay, by) + 1
    intersection = max(0, width) * max(0, height)
    return intersection / ((aw + 1) * (ah + 1) + (bw + 1) * (bh + 1) - intersection)


@pytest.mark.parametrize("device", DEVICES)
@examples
@given(box_set=box_sets, threshold=thresholds)
def test_kept_and_suppressed_by_the_rule(device, box_set, threshold):
    kept = batched_nms(*tensors_of(box_set, device), threshold).tolist()
    assert len(set(kept)) == len(kept)
    assert kept == sorted(kept, key=lambda i: (-box_set[i][4], i))
    for i in range(len(box_set)):
        rivals = [j for j in kept if j != i and box_set[j][5] == box_set[i][5]]
        overlapping = [j for j in rivals if iou(box_set[i], box_set[j]) > threshold]
        if i in kept:
            assert not overlapping
        else:
            assert any((-box_set[j][4], j) < (-box_set[i][4], i) for j in overlapping)


@pytest.mark.parametrize("device", DEVICES)
@examples
@given(box_set=box_sets, threshold=thresholds)
def test_batched_is_each_group_alone(device, box_set, threshold):
    boxes, scores, groups = tensors_of(box_set, device)
    alone = set()
    for group in groups.unique():
        index = (groups == group).nonzero()[:, 0]
        alone.update(index[nms(boxes[index], scores[index], threshold)].tolist())
    assert set(batched_nms(boxes, scores, groups, threshold).tolist()) == alone


@pytest.mark.parametrize("device", DEVICES)
@examples
@given(box_set=box_sets, threshold=thresholds)
def test_a_second_pass_changes_nothing(device, box_set, threshold):
    boxes, scores, groups = tensors_of(box_set, device)
    kept = batched_nms(boxes, scores, groups, threshold)
    again = batched_nms(boxes[kept], scores[kept], groups[kept], threshold)
    assert again.tolist() == list(range(len(kept)))


@pytest.mark.parametrize("device", DEVICES)
@examples
@given(box_set=box_sets, threshold=thresholds, random=st.randoms(use_true_random=False))
def test_order_of_the_input_does_not_matter_for_distinct_scores(device, box_set, threshold, random):
    distinct = list({row[4]: row for row in box_set}.values())
    shuffled = random.sample(distinct, len(distinct))
    kept = [distinct[i] for i in batched_nms(*tensors_of(distinct, device), threshold)]
    assert [shuffled[i] for i in batched_nms(*tensors_of(shuffled, device), threshold)] == kept


@pytest.mark.parametrize("device", DEVICES)
@examples
@given(box_set=box_sets, threshold=thresholds, empty=st.sets(st.integers(0, 39)))
def test_empty_slots_are_as_absent(device, box_set, threshold, empty):
    boxes, scores, groups = tensors_of(box_set, device)
    filled = [i for i in range(len(box_set)) if i not in empty]
    scores[[i for i in range(len(box_set)) if i in empty]] = -torch.inf
    kept = batched_nms(boxes, scores, groups, threshold).tolist()
    assert kept == [filled[i] for i in batched_nms(boxes[filled], scores[filled], groups[filled], threshold).tolist()]


@pytest.mark.parametrize("device", DEVICES)
@examples
@given(box_set=box_sets, threshold=thresholds)
def test_any_boxes_give_the_mask_of_the_definition(device, box_set, threshold):
    require_kernel("nms_mask", device)
    tensors = tensors_of(box_set, device)
    assert nms_mask(*tensors, threshold).tolist() == nms_mask_reference(*tensors, threshold).tolist()
