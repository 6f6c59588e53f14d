"""Targets and losses with every combination of their options, against the rules in plain Python numbers."""

import itertools
import math

import pytest
import torch

from fcos_core.modeling.fcos.loss import FCOSLoss
from fcos_core.modeling.fcos.targets import TargetAssigner
from fcos_core.structures.bounding_box import BoxList

STRIDES, SIZES, RANGES = (8, 16), [(4, 5), (2, 3)], [(-1, 26), (26, 1e8)]
CLASSES, GAMMA, ALPHA = 2, 2.0, 0.25
# (x1, y1, x2, y2, class) of each image. Of the boxes at (12, 12), the third has the least area, 6 * 30 = 180, without
# the corner pixels, and the second, 13 * 16.5 = 214.5, with them.
BOXES = [
    [(1, 1, 38, 30, 1), (2, 1, 14, 16.5, 2), (10.5, 0, 16.5, 30, 1), (0, 8.5, 24, 16.5, 2)],
    [],
    [(3, 3, 33.25, 29.5, 2)],
]
RADIUS = 0.75


def locations():
    """(x, y, stride, range) of every location, in order."""
    for stride, (height, width), limits in zip(STRIDES, SIZES, RANGES, strict=True):
        for row in range(height):
            for column in range(width):
                yield column * stride + stride // 2, row * stride + stride // 2, stride, limits


def rule(x, y, stride, limits, boxes, radius, continuous):
    """Class and distances of the location's box, or None."""
    found = []
    for index, (x1, y1, x2, y2, label) in enumerate(boxes):
        sides = (x - x1, y - y1, x2 - x, y2 - y)
        inner = (x1, y1, x2, y2)
        if radius > 0:
            cx, cy, half = (x1 + x2) / 2, (y1 + y2) / 2, radius * stride
            inner = (max(cx - half, x1), max(cy - half, y1), min(cx + half, x2), min(cy + half, y2))
        if min(x - inner[0], y - inner[1], inner[2] - x, inner[3] - y) > 0 and limits[0] <= max(sides) <= limits[1]:
            edge = 0 if continuous else 1
            found.append(((x2 - x1 + edge) * (y2 - y1 + edge), index, label, sides))
    return min(found)[2:] if found else None


def box_numbers(pred, true):
    """Return intersection, union and the width and height of the box around both."""
    area, true_area = ((s[0] + s[2]) * (s[1] + s[3]) for s in (pred, true))
    inner, outer = ([choose(p, t) for p, t in zip(pred, true, strict=True)] for choose in (min, max))
    intersection = (inner[0] + inner[2]) * (inner[1] + inner[3])
    return intersection, area + true_area - intersection, outer[0] + outer[2], outer[1] + outer[3]


def box_loss(kind, pred, constant, true):
    intersection, union, width, height = box_numbers(pred, true)
    iou = (intersection + 1) / (union + 1)
    if kind == "iou":
        return -math.log(iou)
    if kind == "linear_iou":
        return 1 - iou
    if kind == "giou":
        around = width * height + 1e-7
        return 1 - (iou - (around - union) / around)
    # Distance-IoU loss, eq. 7 of its paper; the IoU has no + 1.
    centres = [((s[2] - s[0]) / 2, (s[3] - s[1]) / 2) for s in (pred, true)]
    loss = 1 - intersection / (union + 1e-7) + math.dist(*centres) ** 2 / (width**2 + height**2 + 1e-7)
    if kind == "ciou":  # eq. 10 and 11 of the same paper; no gradient flows through the weight
        intersection, union, _, _ = box_numbers(constant, true)
        weight = (v := difference_of_shapes(constant, true)) / (1 - intersection / (union + 1e-7) + v + 1e-7)
        loss += weight * difference_of_shapes(pred, true)
    return loss


def difference_of_shapes(pred, true):
    shapes = [math.atan((s[0] + s[2]) / (s[1] + s[3])) for s in (true, pred)]
    return 4 / math.pi**2 * (shapes[0] - shapes[1]) ** 2


def expected_losses(cells, constants, kind, normalized, quality, normalizer, radius, continuous):
    """Losses of cells (image, location) -> (class logits, distances, quality logit).

    `constants` are cells whose predictions give the numbers that no gradient flows through.
    """
    sums = dict.fromkeys(("cls", "reg", "quality", "centerness"), 0.0)
    positives = 0
    for image, boxes in enumerate(BOXES):
        for place, (x, y, stride, limits) in enumerate(locations()):
            logits, pred, quality_logit = cells[image][place]
            found = rule(x, y, stride, limits, boxes, radius, continuous)
            for label, logit in enumerate(logits, start=1):
                p = 1 / (1 + math.exp(-logit))
                if found and found[0] == label:
                    sums["cls"] -= ALPHA * (1 - p) ** GAMMA * math.log(p)
                else:
                    sums["cls"] -= (1 - ALPHA) * p**GAMMA * math.log(1 - p)
            if not found:
                continue
            positives += 1
            divisor = stride if normalized else 1
            pred, constant, true = (
                [side / divisor for side in s] for s in (pred, constants[image][place][1], found[1])
            )
            (left, top, right, bottom), weight = true, 1.0
            centerness = math.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))
            sums["centerness"] += centerness
            if quality == "ctrness":
                weight = goal = centerness
            else:
                intersection, union, _, _ = box_numbers(constant, true)
                goal = (intersection + 1) / (union + 1)
            sums["reg"] += weight * box_loss(kind, pred, constant, true)
            p = 1 / (1 + math.exp(-quality_logit))
            sums["quality"] -= goal * math.log(p) + (1 - goal) * math.log(1 - p)
    return {
        "loss_cls": sums["cls"] / (max(positives, 1) if normalizer == "positives" else positives + len(BOXES)),
        "loss_reg": sums["reg"] / (sums["centerness"] if quality == "ctrness" else max(positives, 1)),
        "loss_centerness": sums["quality"] / max(positives, 1),
    }


def outputs(seed=0):
    """Levels of class logits, distances and quality logits, (N, C, H, W) each."""
    generator = torch.Generator().manual_seed(seed)
    draw = [
        [torch.randn(len(BOXES), channels, *size, generator=generator, dtype=torch.float64) for size in SIZES]
        for channels in (CLASSES, 4, 1)
    ]
    return draw[0], [level.exp() * 8 for level in draw[1]], draw[2]


def cells_of(levels):
    flat = [torch.cat([level.flatten(2) for level in kind], dim=2).transpose(1, 2).tolist() for kind in levels]
    return [
        [(logits, sides, quality[0]) for logits, sides, quality in zip(*image, strict=True)]
        for image in zip(*flat, strict=True)
    ]


def assigned(radius=0.0, continuous=False):
    targets = []
    for boxes in BOXES:
        values = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 5)
        targets.append(BoxList(values[:, :4], (40, 32), continuous=continuous))
        targets[-1].add_field("labels", values[:, 4].long())
    return TargetAssigner(STRIDES, RANGES, radius, continuous)(
        SIZES, (32, 40), targets, torch.float64, torch.device("cpu")
    )


@pytest.mark.parametrize("normalizer", ["positives_and_images", "positives"])
@pytest.mark.parametrize("quality", ["ctrness", "iou"])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("kind", ["iou", "linear_iou", "giou", "diou", "ciou"])
def test_losses_and_gradients_by_the_rules(kind, normalized, quality, normalizer):
    for radius, continuous in itertools.product((0.0, RADIUS), (False, True)):
        levels = outputs()
        for level in itertools.chain(*levels):
            level.requires_grad_()
        options = (kind, normalized, quality, normalizer)
        losses = FCOSLoss(GAMMA, ALPHA, *options)(*levels, assigned(radius, continuous))
        cells = cells_of([[level.detach() for level in kind] for kind in levels])
        expected = expected_losses(cells, cells, *options, radius, continuous)
        assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-9)
        # The slope along a random direction is the difference of two values of the rules.
        sum(losses.values()).backward()
        step, direction = 1e-6, outputs(seed=1)
        slope = sum(
            (level.grad * way).sum().item()
            for level, way in zip(itertools.chain(*levels), itertools.chain(*direction), strict=True)
        )
        values = []
        for sign in (-1, 1):
            moved = [
                [level.detach() + sign * step * way for level, way in zip(*pair, strict=True)]
                for pair in zip(levels, direction, strict=True)
            ]
            values.append(sum(expected_losses(cells_of(moved), cells, *options, radius, continuous).values()))
        assert slope == pytest.approx((values[1] - values[0]) / (2 * step), rel=1e-5)


def test_options_of_the_targets_choose_other_boxes():
    labels = assigned().labels
    assert (labels > 0).sum() == 22 and (assigned(RADIUS).labels > 0).sum() == 11
    place = list(locations()).index((12, 12, 8, RANGES[0]))
    assert labels[0, place] == 2 and assigned(continuous=True).labels[0, place] == 1


@pytest.mark.parametrize("quality", ["ctrness", "iou"])
@pytest.mark.parametrize("kind", ["iou", "linear_iou", "giou", "diou", "ciou"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_stay_finite_where_a_box_has_no_size_or_is_right(kind, quality, dtype):
    targets = assigned()
    sides = [(0, 0, 0, 0), (0, 3, 0, 3), (3, 0, 3, 0), (1e-30, 1e-30, 1e-30, 1e-30), (1e-30, 9, 1e-30, 9), (9, 0, 0, 9)]
    for pred in sides:
        logits, bbox_reg, centerness = outputs()
        bbox_reg = [torch.tensor(pred, dtype=dtype).view(1, 4, 1, 1).expand(level.shape).clone() for level in bbox_reg]
        # Every other location predicts its target.
        true = targets.distances.transpose(1, 2).split([level.shape[-2:].numel() for level in bbox_reg], dim=2)
        for level, right in zip(bbox_reg, true, strict=True):
            level.flatten(2)[:, :, ::2] = right[:, :, ::2].to(dtype)
            level.requires_grad_()
        losses = FCOSLoss(GAMMA, ALPHA, kind, True, quality)(logits, bbox_reg, centerness, targets)
        assert all(torch.isfinite(loss) for loss in losses.values())
        losses["loss_reg"].backward()
        assert all(torch.isfinite(level.grad).all() for level in bbox_reg)
