"""Test-time augmentation: views, their boxes on the image, and the two ways to merge them."""

import numpy as np
import pytest
import torch
from PIL import Image

from fcos_core import Predictor
from fcos_core.config.checks import check_values
from fcos_core.data.build import build_collator, build_view_planners
from fcos_core.data.transforms import transform
from fcos_core.engine.inference import detect
from fcos_core.engine.test_time_augmentation import AugmentedDetector, make_tested_detector, soft_vote
from fcos_core.errors import InputError
from fcos_core.modeling.detector import build_detection_model
from fcos_core.modeling.fcos.box_coder import BoxCoder
from fcos_core.structures.bounding_box import BoxList

EVERY_VIEW = ["ENABLED", True, "H_FLIP", True, "SCALES", (48, 96), "MAX_SIZE", 150, "SCALE_H_FLIP", True]
RESIZES = ["fcos", "detectron2", "mmdet", "torchvision"]


def augmented(config, *options):
    config = config.clone()
    keys = [f"TEST.BBOX_AUG.{word}" if word in config.TEST.BBOX_AUG else word for word in options[::2]]
    config.merge_from_list([word for pair in zip(keys, options[1::2], strict=True) for word in pair])
    check_values(config)
    return config


@pytest.fixture(scope="module")
def config(small_config):
    config = small_config.clone()
    config.merge_from_list(["MODEL.FCOS.NUM_CLASSES", 4, "INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 107])
    # Random weights score every class near 0.5: enough candidates, and not thousands.
    config.MODEL.FCOS.PRIOR_PROB, config.MODEL.FCOS.INFERENCE_TH = 0.5, 0.6
    return config


@pytest.fixture(scope="module")
def model(config):
    torch.manual_seed(0)
    model = build_detection_model(config).eval()
    torch.nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.5)
    return model


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    return path


def picture(size=(80, 60), seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def boxes_of(rows, size=(200, 100), continuous=False):
    """Rows (x1, y1, x2, y2, score, label)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    boxes = BoxList(table[:, :4], size, continuous=continuous)
    boxes.add_field("scores", table[:, 4])
    boxes.add_field("labels", table[:, 5].long())
    return boxes


def rows_of(boxes):
    scores, labels = boxes.get_field("scores")[:, None], boxes.get_field("labels")[:, None]
    return torch.cat([boxes.bbox, scores, labels], dim=1)


def views_of(config, image):
    plans = [planner.plan(0, [0]) for planner in build_view_planners(config, np.array([image.size]))]
    samples = [(*transform(image, BoxList([], image.size), plan.samples[0]), 0) for plan in plans]
    return build_collator(config).gather([samples], plans)[0]


# ------------------------------------------------------------------------------------------------ views
def test_views_are_those_of_published_code(config):
    """The size of the test, its mirror image, then each scale under the other cap, followed by its mirror image."""
    planners = build_view_planners(augmented(config, *EVERY_VIEW), np.array([(80, 60)]))
    samples = [planner.plan(0, [0]).samples[0] for planner in planners]
    # 64 * 80 / 60 = 85.3 and 48 * 80 / 60 = 64 and 96 * 80 / 60 = 128, below the caps of 107 and 150.
    expected = [((85, 64), False), ((85, 64), True), ((64, 48), False), ((64, 48), True)]
    assert [(sample.size, sample.flip) for sample in samples] == [*expected, ((128, 96), False), ((128, 96), True)]
    assert len(build_view_planners(augmented(config, *EVERY_VIEW, "ENABLED", False), np.array([(80, 60)]))) == 1


@pytest.mark.parametrize("rule", RESIZES)
def test_each_view_is_what_a_test_at_its_size_makes_of_the_picture(config, rule):
    config = augmented(config, *EVERY_VIEW, "INPUT.RESIZE", rule)
    image = picture()
    views = views_of(config, image)
    assert views.flipped == (False, True) * 3
    for view, mirrored, size in zip(
        views.views[::2], views.views[1::2], [(64, 107), (48, 150), (96, 150)], strict=True
    ):
        alone = augmented(config, "ENABLED", False, "INPUT.MIN_SIZE_TEST", size[0], "INPUT.MAX_SIZE_TEST", size[1])
        expected = views_of(alone, image)
        assert view.image_sizes == mirrored.image_sizes == expected.image_sizes
        assert torch.equal(view.pixels, expected.pixels)
        height, width = view.image_sizes[0]
        assert torch.equal(mirrored.pixels[..., :height, :width], expected.pixels[..., :height, :width].flip(3))


class FindsBright(torch.nn.Module):
    """Finds the bright part of each image, a box with a score that tells the calls apart."""

    def __init__(self, continuous):
        super().__init__()
        self.continuous, self.calls = continuous, 0

    def forward(self, images):
        self.calls += 1
        found = []
        for pixels, (height, width) in zip(images.pixels, images.image_sizes, strict=True):
            ys, xs = (pixels[0, :height, :width] > 127).nonzero().unbind(1)
            end = 1 if self.continuous else 0
            corners = [xs.min(), ys.min(), xs.max() + end, ys.max() + end]
            found.append(boxes_of([[*corners, 1 / self.calls, 1]], (width, height), self.continuous))
        return found


@pytest.mark.parametrize("continuous", [False, True])
def test_boxes_of_all_views_are_on_the_first(config, continuous):
    """A rectangle at multiples of the scales' denominators has the same place in every view."""
    config = augmented(config, *EVERY_VIEW, "INPUT.MIN_SIZE_TEST", 48, "SCALES", (96, 144), "MAX_SIZE", 500)
    pixels = np.zeros((48, 64, 3), dtype=np.uint8)
    pixels[8:24, 4:20] = 255
    joined = []
    detector = AugmentedDetector(FindsBright(continuous), lambda boxes: joined.append(boxes) or boxes)
    detect(detector, views_of(config, Image.fromarray(pixels)), [(64, 48)], "cpu")
    (boxes,) = joined
    assert boxes.size == (64, 48) and boxes.get_field("scores").tolist() == pytest.approx([1 / n for n in range(1, 7)])
    # Inclusive, the last pixel of an image enlarged s times ends at 20 - 1 / s; continuous, each box ends at 20.
    ends = [1, 1, 1 / 2, 1 / 2, 1 / 3, 1 / 3]
    for box, end in zip(boxes.bbox.tolist(), ends, strict=True):
        end = 0 if continuous else end
        assert box == pytest.approx([4, 8, 20 - end, 24 - end], abs=1e-4)


# -------------------------------------------------------------------------------------------------- nms
@pytest.mark.parametrize("merge", ["nms", "soft-vote"])
@pytest.mark.parametrize(
    "conventions",
    [[], ["PIXELS", "continuous", "CLIP", "after_nms", "DROP_EMPTY", True, "SCORE", "sqrt", "RANK_BY", "class"]],
    ids=["published", "others"],
)
def test_one_view_gives_what_no_augmentation_gives(config, model, conventions, merge):
    config = config.clone()
    config.merge_from_list([f"MODEL.FCOS.{w}" if w in config.MODEL.FCOS else w for w in conventions])
    model = like(model, config)
    images = views_of(config, picture())
    with torch.no_grad():
        expected = model(images)[0]
    # VOTE_TH is above NMS_TH: no two detections of a class vote together.
    found = make_tested_detector(augmented(config, "ENABLED", True, "MERGE_TYPE", merge), model)(images)[0]
    assert len(found) > 20 and torch.equal(rows_of(found), rows_of(expected))
    assert found.continuous == (config.MODEL.FCOS.PIXELS == "continuous")


@pytest.mark.parametrize("pixels", ["inclusive", "continuous"])
@pytest.mark.parametrize("clip", ["before_nms", "after_nms"])
def test_nms_is_over_the_candidates_of_all_views(config, model, pixels, clip):
    """The candidates, mirrored and scaled back, go through the NMS and the limit of a test with one view."""
    config = augmented(config, *EVERY_VIEW, "TEST.DETECTIONS_PER_IMG", 30, "MODEL.FCOS.INFERENCE_TH", 0.62)
    config.merge_from_list(["MODEL.FCOS.PIXELS", pixels, "MODEL.FCOS.CLIP", clip])
    one = 1 if pixels == "inclusive" else 0
    views = views_of(config, picture())
    # A detector that suppresses nothing gives its candidates.
    everything = augmented(config, "MODEL.FCOS.NMS_TH", 1.0, "TEST.DETECTIONS_PER_IMG", 10**6)
    candidates, rows = like(model, everything), []
    if clip == "after_nms":
        candidates.rpn.postprocess.coder = FreeCoder(continuous=not one)
    for view, flipped in zip(views.views, views.flipped, strict=True):
        x1, y1, x2, y2, scores, labels = rows_of(candidates(view)[0]).unbind(1)
        height, width = view.image_sizes[0]
        x1, x2 = (width - one - x2, width - one - x1) if flipped else (x1, x2)
        across, down = 85 / width, 64 / height
        rows.append(torch.stack([x1 * across, y1 * down, x2 * across, y2 * down, scores, labels], dim=1))
    rows = torch.cat(rows)
    kept = []
    for row in sorted(rows.tolist(), key=lambda row: -row[4]):
        if all(iou(row, other, one) <= 0.6 for other in kept if other[5] == row[5]):
            kept.append(row)
    expected = torch.tensor(kept[:30])
    if clip == "after_nms":
        expected[:, :4] = expected[:, :4].clamp(min=0).minimum(torch.tensor([85, 64, 85, 64]) - one)
    found = make_tested_detector(config, like(model, config))(views)[0]
    assert found.size == (85, 64) and 40 < len(kept) < len(rows) < 1000
    torch.testing.assert_close(rows_of(found), expected, rtol=0, atol=1e-4)


class FreeCoder(BoxCoder):
    """Leaves boxes outside the image as they are."""

    def clip(self, boxes, clip_max):
        return boxes


def like(model, config):
    other = build_detection_model(config).eval().requires_grad_(False)
    other.load_state_dict(model.state_dict())
    return other


def iou(a, b, one):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + one for i in (0, 1))
    inner = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0] + one) * (box[3] - box[1] + one) for box in (a, b)]
    return inner / max(sum(areas) - inner, 1e-9)


# ------------------------------------------------------------------------------------------------ votes
def test_soft_vote_by_hand():
    found = soft_vote(
        boxes_of(
            [
                [0, 0, 99, 99, 0.5, 1],
                [20, 0, 119, 99, 0.25, 1],  # IoU 80 / 120 with the first: a vote
                [60, 0, 159, 99, 0.4, 1],  # IoU 40 / 160 with the first: another object
                [0, 0, 99, 99, 0.3, 2],  # another class
            ]
        ),
        vote_threshold=0.66,
        score_threshold=0.05,
    )
    third = 1 / 3
    expected = [
        [20 * third, 0, 99 + 20 * third, 99, 0.5, 1],  # weights 2/3 and 1/3
        [60, 0, 159, 99, 0.4, 1],
        [0, 0, 99, 99, 0.3, 2],
        [20, 0, 119, 99, 0.25 * third, 1],  # score times 1 - IoU
    ]
    torch.testing.assert_close(rows_of(found), torch.tensor(expected))


@pytest.mark.parametrize(("score_threshold", "count"), [(0.08, 2), (0.09, 1)])
def test_a_vote_stays_by_itself_above_the_threshold(score_threshold, count):
    found = soft_vote(boxes_of([[0, 0, 99, 99, 0.5, 1], [20, 0, 119, 99, 0.25, 1]]), 0.66, score_threshold)
    assert len(found) == count


def test_a_vote_counts_once_and_the_best_box_gathers_first():
    """The second box votes for the first, so the third, which overlaps only the second, is not merged."""
    found = soft_vote(boxes_of([[0, 0, 99, 9, 0.9, 1], [15, 0, 114, 9, 0.8, 1], [30, 0, 129, 9, 0.7, 1]]), 0.66, 0.5)
    assert rows_of(found)[:, 4].tolist() == pytest.approx([0.9, 0.7])
    assert found.bbox[1].tolist() == [30, 0, 129, 9]


def test_soft_vote_without_boxes_and_without_scores():
    assert len(soft_vote(boxes_of([]), 0.66, 0.05)) == 0
    found = soft_vote(boxes_of([[0, 0, 99, 99, 0, 1], [2, 0, 101, 99, 0, 1]]), 0.66, 0.0)
    torch.testing.assert_close(rows_of(found), torch.tensor([[1.0, 0, 100, 99, 0, 1]]))


def test_a_continuous_box_votes_by_its_own_width():
    rows = [[0, 0, 3, 3, 0.5, 1], [1, 0, 4, 3, 0.4, 1]]
    inclusive, continuous = boxes_of(rows), boxes_of(rows, continuous=True)
    # IoU 12 / 20 with 4x4 pixels, 6 / 12 with 3x3.
    assert len(soft_vote(inclusive, 0.55, 0.3)) == 1 and len(soft_vote(continuous, 0.55, 0.3)) == 2


# ---------------------------------------------------------------------------------- compiled, predictor
@pytest.mark.parametrize("merge", ["nms", "soft-vote"])
def test_a_compiled_detector_finds_the_same(config, model, merge):
    config = augmented(config, *EVERY_VIEW, "MERGE_TYPE", merge)
    views = views_of(config, picture((160, 120)))
    compiled, plain = (make_tested_detector(config, model, compile)(views)[0] for compile in (True, False))
    assert len(plain) > 20
    torch.testing.assert_close(rows_of(compiled), rows_of(plain), rtol=0, atol=2e-3)


@pytest.mark.parametrize("rule", RESIZES)
def test_predictor_finds_what_a_test_finds(config, model, weights, rule):
    """In pixels of the picture, whatever the rule that resizes it for each view."""
    config = augmented(config, *EVERY_VIEW, "INPUT.RESIZE", rule)
    image = picture((160, 120))
    found = Predictor(config, weights, compile=False)(image)
    (expected,) = detect(make_tested_detector(config, model), views_of(config, image), [image.size], "cpu")
    assert found.size == (160, 120) and len(found) > 20
    assert torch.equal(rows_of(found), rows_of(expected))


# ----------------------------------------------------------------------------------------------- errors
def test_what_cannot_work_is_refused(config, model):
    with pytest.raises(InputError, match="SCALE_H_FLIP is True: write False, or True with the sizes"):
        augmented(config, "ENABLED", True, "SCALE_H_FLIP", True)
    with pytest.raises(InputError, match="takes one view of an image"):
        model(views_of(augmented(config, *EVERY_VIEW), picture()))
    with pytest.raises(InputError, match="the detector to test is a Linear"):
        make_tested_detector(augmented(config, "ENABLED", True), torch.nn.Linear(1, 1))
