"""Target assignment of a batch: the compiled kernels against the pure PyTorch definition, and both against the rule."""

import pytest
import torch
from compiled_kernels import require_kernel
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos_core.layers.assign_targets import assign_targets, assign_targets_reference

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]
OPERATOR = torch.ops.fcos_core.assign_boxes
IMPLEMENTATIONS = {"operator": assign_targets, "definition": assign_targets_reference}


def grids(height, width, strides, dtype=torch.float32):
    """Make locations and ranges of the levels of an image, as the detector does."""
    locations, ranges = [], []
    for level, stride in enumerate(strides):
        ys, xs = torch.meshgrid(
            torch.arange(stride // 2, height, stride), torch.arange(stride // 2, width, stride), indexing="ij"
        )
        locations.append(torch.stack([xs.flatten(), ys.flatten()], 1))
        low, high = (-1 if level == 0 else 8 * stride // 2), (1e8 if level == len(strides) - 1 else 8 * stride)
        ranges.append(torch.tensor([[low, high]]).expand(len(locations[-1]), 2))
    return torch.cat(locations).to(dtype), torch.cat(ranges).to(dtype)


def random_boxes(counts, size, seed, dtype=torch.float32, whole=False):
    """Make boxes, labels and offsets of images with `counts` boxes."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(counts)
    corner = torch.rand(n, 2, generator=generator, dtype=dtype) * size - size / 10
    sides = torch.rand(n, 2, generator=generator, dtype=dtype) ** 3 * size
    boxes = torch.cat([corner, corner + sides], 1)
    labels = torch.randint(1, 81, (n,), generator=generator)
    return boxes.round() if whole else boxes, labels, torch.tensor([0, *counts]).cumsum(0)


def radii_of(locations, most=30):
    """Make a radius in pixels for each location, 0 for some."""
    return torch.rand(len(locations), generator=torch.Generator().manual_seed(6)).to(locations).sub(0.1).relu() * most


def to(device, inputs):
    return [value.to(device) if isinstance(value, torch.Tensor) else value for value in inputs]


def cases():
    locations, ranges = grids(120, 200, [4, 8, 16, 32])
    boxes, labels, offsets = random_boxes([7, 0, 40, 1], 200, seed=0)
    nan, infinite = boxes.clone(), boxes.clone()
    nan[::3, 1] = torch.nan
    infinite[::3, 2] = torch.inf
    infinite[1::3, 0] = -torch.inf
    shuffled = torch.randperm(len(locations), generator=torch.Generator().manual_seed(1))
    return {
        "random": (locations, ranges, boxes, labels, offsets),
        "float64": (*grids(120, 200, [4, 8, 16], torch.float64), *random_boxes([9, 30], 200, 2, torch.float64)),
        "whole pixels": (locations, ranges, *random_boxes([100, 100], 200, seed=3, whole=True)),
        "more boxes than a thread block": (*grids(60, 60, [8, 16]), *random_boxes([700, 3], 60, seed=4, whole=True)),
        "equal boxes": (locations, ranges, boxes[:1].expand(48, 4), labels, offsets),
        "NaN boxes": (locations, ranges, nan, labels, offsets),
        "infinite boxes": (locations, ranges, infinite, labels, offsets),
        "inverted boxes": (locations, ranges, boxes.flip(1), labels, offsets),
        "no boxes": (locations, ranges, boxes[:0], labels[:0], torch.zeros(4, dtype=torch.int64)),
        "no images": (locations, ranges, boxes[:0], labels[:0], torch.zeros(1, dtype=torch.int64)),
        "no locations": (locations[:0], ranges[:0], boxes, labels, offsets),
        "one location": (locations[90:91], ranges[90:91], boxes, labels, offsets),
        "locations in no order": (locations[shuffled], ranges[shuffled], boxes, labels, offsets),
        "center sampling": (locations, ranges, boxes, labels, offsets, radii_of(locations)),
        "center sampling, whole pixels": (
            locations,
            ranges,
            *random_boxes([100, 100], 200, seed=3, whole=True),
            radii_of(locations).round(),
        ),
        "center sampling, float64": (
            *(inputs := (*grids(60, 60, [8], torch.float64), *random_boxes([700, 3], 60, 4, torch.float64))),
            radii_of(inputs[0]),
            True,
        ),
        "center sampling, NaN": (locations, ranges, nan, labels, offsets, radii_of(locations) / 0),
        "center sampling, strided": (locations, ranges, boxes, labels, offsets, radii_of(locations).repeat(2)[::2]),
        "continuous": (*grids(60, 60, [8, 16]), *random_boxes([700, 3], 60, seed=4, whole=True), None, True),
        "strided": (locations.t().contiguous().t(), ranges, boxes.repeat(1, 2)[:, 4:], labels, offsets),
    }


CASES = cases()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_kernel_equals_definition(case, device):
    require_kernel("assign_boxes", device)
    inputs = CASES[case]
    expected_labels, expected_distances = assign_targets_reference(*inputs)
    labels, distances = OPERATOR(*to(device, inputs))
    assert labels.dtype == torch.int64
    assert labels.cpu().equal(expected_labels)
    assert distances.cpu().equal(expected_distances)


def test_cases_assign_and_leave_out():
    for case in ("random", "float64", "whole pixels", "more boxes than a thread block", "locations in no order"):
        labels, _ = assign_targets_reference(*CASES[case])
        assert 0 < (labels > 0).sum() < labels.numel(), case
    for case in ("center sampling", "center sampling, whole pixels", "center sampling, float64", "continuous"):
        labels, _ = assign_targets_reference(*CASES[case])
        assert labels.any() and not labels.equal(assign_targets_reference(*CASES[case][:5])[0]), case


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sampled", [False, True])
def test_crowded_images_at_full_size(sampled, device):
    """Test 300 boxes per image on the six levels of 800 x 1344: too many pairs to hold at once."""
    require_kernel("assign_boxes", device)
    locations, ranges = grids(800, 1344, [4, 8, 16, 32, 64, 128])
    inputs = (locations, ranges, *random_boxes([300, 300], 1344, seed=5))
    radii = radii_of(locations, most=400) if sampled else None
    labels, distances = (tensor.cpu() for tensor in OPERATOR(*to(device, [*inputs, radii, sampled])))
    some = torch.arange(7, len(locations), 53)
    expected_labels, expected_distances = assign_targets_reference(
        locations[some], ranges[some], *inputs[2:], radii[some] if sampled else None, sampled
    )
    assert (expected_labels > 0).sum() > 20
    assert labels[:, some].equal(expected_labels)
    assert distances[:, some].equal(expected_distances)


def rule(location, limits, boxes, radius, continuous):
    """Return the index of the box that a location belongs to, or None: the rule of FCOS in plain numbers."""
    x, y = location
    found = []
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        sides, inner = (x - x1, y - y1, x2 - x, y2 - y), (x1, y1, x2, y2)
        if radius is not None:
            cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
            inner = (max(cx - radius, x1), max(cy - radius, y1), min(cx + radius, x2), min(cy + radius, y2))
        inside = min(x - inner[0], y - inner[1], inner[2] - x, inner[3] - y) > 0
        edge = 0 if continuous else 1
        if inside and limits[0] <= max(sides) <= limits[1]:
            found.append(((x2 - x1 + edge) * (y2 - y1 + edge), index))
    return min(found)[1] if found else None


coordinates = st.integers(-5, 40)
box_sets = st.lists(st.tuples(coordinates, coordinates, st.integers(0, 40), st.integers(0, 40)), max_size=12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=40)
@given(
    images=st.lists(box_sets, max_size=3),
    locations=st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=80),
    limits=st.tuples(st.integers(-1, 20), st.integers(1, 50)),
    radius=st.none() | st.sampled_from([0.0, 1.0, 4.5, 12.0]),
    continuous=st.booleans(),
)
def test_the_least_box_by_the_rule(device, implementation, dtype, images, locations, limits, radius, continuous):
    # float32 holds whole pixels exactly, so plain Python numbers give the same results.
    corners = [[(x, y, x + w, y + h) for x, y, w, h in boxes] for boxes in images]
    flat = [box for boxes in corners for box in boxes]
    offsets = torch.tensor([0, *map(len, corners)]).cumsum(0)
    labels, distances = IMPLEMENTATIONS[implementation](
        torch.tensor(locations, dtype=dtype, device=device),
        torch.tensor([limits] * len(locations), dtype=dtype, device=device),
        torch.tensor(flat, dtype=dtype, device=device).reshape(-1, 4),
        torch.arange(1, len(flat) + 1, device=device),
        offsets.to(device),
        None if radius is None else torch.full((len(locations),), radius, dtype=dtype, device=device),
        continuous,
    )
    assert labels.shape == (len(images), len(locations))
    assert distances.shape == (len(images), len(locations), 4)
    for image, boxes in enumerate(corners):
        for place, (x, y) in enumerate(locations):
            chosen = rule((x, y), limits, boxes, radius, continuous)
            if chosen is None:
                expected = (0, [0, 0, 0, 0])
            else:
                x1, y1, x2, y2 = boxes[chosen]
                expected = (int(offsets[image]) + chosen + 1, [x - x1, y - y1, x2 - x, y2 - y])
            assert (labels[image, place].item(), distances[image, place].tolist()) == expected


LOCATIONS, BOXES, RADII = torch.zeros(3, 2), torch.zeros(2, 4), torch.zeros(3)
LABELS, OFFSETS = torch.ones(2, dtype=torch.int64), torch.tensor([0, 2])
WRONG = [
    ((torch.zeros(3), LOCATIONS, BOXES, LABELS, OFFSETS), r"locations must have shape \(L, 2\), they have \[3\]"),
    ((LOCATIONS.half(), LOCATIONS, BOXES, LABELS, OFFSETS), "locations must be float32 or float64"),
    ((LOCATIONS, LOCATIONS[:2], BOXES, LABELS, OFFSETS), r"ranges must have the shape of locations, \[3, 2\]"),
    ((LOCATIONS, LOCATIONS, BOXES[:, :3], LABELS, OFFSETS), r"boxes must have shape \(M, 4\), they have \[2, 3\]"),
    ((LOCATIONS, LOCATIONS, BOXES.double(), LABELS, OFFSETS), "must be of one dtype"),
    ((LOCATIONS, LOCATIONS, BOXES, LABELS[:1], OFFSETS), r"labels must be int64 of shape \(2,\), one per box"),
    ((LOCATIONS, LOCATIONS, BOXES, LABELS.int(), OFFSETS), r"labels must be int64 of shape \(2,\), one per box"),
    ((LOCATIONS, LOCATIONS, BOXES, LABELS, OFFSETS[:0]), r"offsets must be int64 of shape \(images \+ 1,\)"),
    ((LOCATIONS, LOCATIONS, BOXES, LABELS, OFFSETS.int()), r"offsets must be int64 of shape \(images \+ 1,\)"),
    (
        (LOCATIONS, LOCATIONS, BOXES, LABELS, OFFSETS, LOCATIONS),
        r"radii must be torch.float32 of shape \(3,\), one per",
    ),
    ((LOCATIONS, LOCATIONS, BOXES, LABELS, OFFSETS, RADII[:2]), r"radii must be .*, they are torch.float32 of \[2\]"),
    ((LOCATIONS, LOCATIONS, BOXES, LABELS, OFFSETS, RADII.double()), r"radii must be .*, they are torch.float64"),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_input_is_named(arguments, message, implementation, device):
    with pytest.raises(RuntimeError, match=message):
        IMPLEMENTATIONS[implementation](*(tensor.to(device) for tensor in arguments))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("offsets", [[0, 3], [1, 2], [0, 1], [0, 2, 1, 2]])
def test_wrong_offsets_are_named(offsets, implementation):
    with pytest.raises(RuntimeError, match="offsets must not decrease and go from 0 to the number of boxes, 2"):
        IMPLEMENTATIONS[implementation](LOCATIONS, LOCATIONS, BOXES, LABELS, torch.tensor(offsets))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("arguments", [WRONG[i][0] for i in (0, 2, 3, 5, 7, 9, 10)])
def test_kernel_refuses_sizes_that_would_be_read_out_of_bounds(arguments, device):
    require_kernel("assign_boxes", device)
    with pytest.raises(RuntimeError, match="do not fit together"):
        OPERATOR(*(tensor.to(device) for tensor in arguments))


@pytest.mark.parametrize("device", DEVICES)
def test_kernel_refuses_other_dtypes(device):
    require_kernel("assign_boxes", device)
    right = [tensor.to(device) for tensor in (LOCATIONS, LOCATIONS, BOXES, LABELS, OFFSETS, RADII)]
    for place, tensor in enumerate(right):
        wrong = [*right[:place], tensor.to(torch.int32), *right[place + 1 :]]
        with pytest.raises(RuntimeError, match=r"expected scalar type|not implemented for"):
            OPERATOR(*wrong)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("case", ["random", "center sampling"])
def test_compile(case, dynamic, device):
    inputs = to(device, CASES[case])
    compiled = torch.compile(assign_targets, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), assign_targets(*inputs), rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "case", ["random", "float64", "no boxes", "no locations", "strided", "center sampling, float64"]
)
def test_opcheck(case, device):
    torch.library.opcheck(OPERATOR.default, tuple(to(device, CASES[case])))
