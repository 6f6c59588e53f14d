import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fcos_core.structures.bounding_box import FLIP_LEFT_RIGHT, FLIP_TOP_BOTTOM, BoxList

SIZE = (100, 60)


def boxes(min_size=0):
    coordinate = st.floats(0, 40, width=32)
    box = st.tuples(coordinate, coordinate, coordinate, coordinate).map(
        lambda c: [c[0], c[1], c[0] + c[2] + 1, c[1] + c[3] + 1]
    )
    return st.lists(box, min_size=min_size, max_size=8).map(lambda rows: torch.tensor(rows).reshape(-1, 4).double())


@given(boxes())
def test_converting_there_and_back_changes_nothing(bbox):
    there = BoxList(bbox, SIZE).convert("xywh")
    torch.testing.assert_close(there.convert("xyxy").bbox, bbox)


def test_pixels_are_inclusive():
    # Pixels 10..19 by 20..39: 10 wide, 20 high.
    box = BoxList([[10, 20, 19, 39]], SIZE)
    assert box.convert("xywh").bbox.tolist() == [[10, 20, 10, 20]]
    assert box.area().tolist() == [200]
    assert BoxList([[10, 20, 10, 20]], SIZE, "xywh").convert("xyxy").bbox.tolist() == [[10, 20, 19, 39]]


def test_continuous_boxes_are_as_wide_as_their_coordinates_say():
    box = BoxList([[10, 20, 20, 40]], SIZE, continuous=True)
    assert box.convert("xywh").bbox.tolist() == [[10, 20, 10, 20]] and box.area().tolist() == [200]
    assert BoxList([[10, 20, 10, 20]], SIZE, "xywh", continuous=True).convert("xyxy").bbox.tolist() == box.bbox.tolist()
    assert box.resize((50, 30)).bbox.tolist() == [[5, 10, 10, 20]]
    # The left edge 10 comes to 100 - 10, the upper edge 20 to 60 - 20.
    assert box.transpose(FLIP_LEFT_RIGHT).bbox.tolist() == [[80, 20, 90, 40]]
    assert box.transpose(FLIP_TOP_BOTTOM).bbox.tolist() == [[10, 20, 20, 40]]
    assert BoxList([[-5, -5, 500, 500]], SIZE, continuous=True).clip_to_image().bbox.tolist() == [[0, 0, 100, 60]]


@pytest.mark.parametrize("mode", ["xyxy", "xywh"])
def test_boxes_in_the_other_kind_of_pixels_are_of_the_same_size(mode):
    inclusive = named(2).convert(mode)
    continuous = inclusive.with_pixels(continuous=True)
    assert continuous.continuous and not inclusive.continuous and continuous.mode == mode
    assert continuous.convert("xyxy").bbox.tolist() == [[0, 0, 6, 6], [1, 1, 7, 7]]
    assert torch.equal(continuous.area(), inclusive.area()) and continuous.fields() == inclusive.fields()
    assert torch.equal(continuous.with_pixels(continuous=False).bbox, inclusive.bbox)
    assert inclusive.with_pixels(continuous=False) is inclusive


def test_every_new_list_keeps_its_kind_of_pixels():
    box = BoxList([[1, 2, 30, 40], [0, 0, 9, 9]], SIZE, continuous=True)
    made = [box[0], box[torch.tensor([True, False])], box.to(torch.float64), box.convert("xywh"), box.resize((50, 30))]
    made += [box.transpose(FLIP_LEFT_RIGHT), box.crop((0, 0, 20, 20)), box.clip_to_image(), box.copy_with_fields([])]
    assert all(changed.continuous for changed in made)
    assert not BoxList([[1, 2, 3, 4]], SIZE).continuous


@given(boxes(), st.sampled_from([FLIP_LEFT_RIGHT, FLIP_TOP_BOTTOM]), st.sampled_from(["xyxy", "xywh"]))
def test_flipping_twice_changes_nothing(bbox, method, mode):
    start = BoxList(bbox, SIZE).convert(mode)
    torch.testing.assert_close(start.transpose(method).transpose(method).bbox, start.bbox)


def test_flip_mirrors_pixels():
    # The leftmost pixel column (0) becomes the rightmost (99), the topmost row (0) the lowest (59).
    box = BoxList([[0, 0, 9, 4]], SIZE)
    assert box.transpose(FLIP_LEFT_RIGHT).bbox.tolist() == [[90, 0, 99, 4]]
    assert box.transpose(FLIP_TOP_BOTTOM).bbox.tolist() == [[0, 55, 9, 59]]


def test_resize_multiplies_each_axis():
    box = BoxList([[10, 20, 30, 40]], SIZE).resize((200, 30))
    assert box.bbox.tolist() == [[20, 10, 60, 20]]
    assert box.size == (200, 30)


def test_clip_drops_what_lies_outside():
    box = BoxList([[-5, -5, 500, 500], [100, 10, 120, 20], [5, 5, 5, 30]], SIZE)
    box.add_field("labels", torch.tensor([1, 2, 3]))
    clipped = box.clip_to_image()
    assert clipped.bbox.tolist() == [[0, 0, 99, 59]]
    assert clipped.get_field("labels").tolist() == [1]
    assert len(box.clip_to_image(remove_empty=False)) == 3


@pytest.mark.parametrize(
    ("given_boxes", "dtype"),
    [
        ([[1, 2, 3, 4]], torch.float32),
        (torch.tensor([[1, 2, 3, 4]]), torch.float32),
        (torch.tensor([[1, 2, 3, 4]], dtype=torch.float64), torch.float64),
        (torch.tensor([[1, 2, 3, 4]], dtype=torch.bfloat16), torch.bfloat16),
        ([], torch.float32),
    ],
)
def test_floating_dtype_is_kept(given_boxes, dtype):
    assert BoxList(given_boxes, SIZE).bbox.dtype == dtype


def test_fields_follow_selection_and_moves():
    box = BoxList([[0, 0, 5, 5], [1, 1, 7, 7]], SIZE)
    box.add_field("scores", torch.tensor([0.5, 0.25]))
    box.add_field("labels", torch.tensor([3, 4]))
    chosen = box[torch.tensor([False, True])].to(torch.float64)
    assert chosen.get_field("scores").dtype == torch.float64
    assert chosen.get_field("labels").dtype == torch.int64
    assert chosen.get_field("labels").tolist() == [4]
    assert chosen.fields() == ["scores", "labels"]
    assert not box.copy_with_fields(["labels"]).has_field("scores")
    assert box.copy_with_fields("labels").fields() == ["labels"]
    assert box.resize((50, 30)).get_field("labels").tolist() == [3, 4]


@pytest.mark.parametrize(("bbox", "mode"), [([[1, 2, 3]], "xyxy"), ([1, 2, 3, 4], "xyxy"), ([[1, 2, 3, 4]], "cxcywh")])
def test_other_shapes_and_modes_are_refused(bbox, mode):
    with pytest.raises(ValueError, match=r"shape \(N, 4\)|mode must be"):
        BoxList(bbox, SIZE, mode)


def named(count=4):
    box = BoxList([[i, i, i + 5, i + 5] for i in range(count)], SIZE)
    box.add_field("scores", torch.arange(count) / 8)
    box.add_field("names", [f"class {i}" for i in range(count)])
    return box


@pytest.mark.parametrize(
    ("item", "positions"),
    [
        (torch.tensor([True, False, False, True]), [0, 3]),
        (torch.tensor([False] * 4), []),
        (torch.tensor([2, 0, 2, -1]), [2, 0, 2, 3]),
        (torch.tensor([], dtype=torch.int64), []),
        (slice(1, 3), [1, 2]),
        (slice(None, None, 2), [0, 2]),
        (slice(-1, None), [3]),
        ([3, 1], [3, 1]),
        (2, [2]),
        (-1, [3]),
    ],
    ids=str,
)
def test_lists_are_selected_like_tensors(item, positions):
    chosen = named()[item]
    assert chosen.bbox[:, 0].tolist() == positions
    assert chosen.get_field("scores").tolist() == [i / 8 for i in positions]
    assert chosen.get_field("names") == [f"class {i}" for i in positions]
    assert chosen.size == SIZE and named().get_field("names") == ["class 0", "class 1", "class 2", "class 3"]


@pytest.mark.parametrize("item", [4, -5, torch.tensor([0, 4]), torch.tensor([True, False])], ids=str)
def test_positions_that_are_not_there_are_errors(item):
    with pytest.raises(IndexError):
        named()[item]


def test_a_list_can_be_iterated_over():
    assert [box.get_field("names") for box in named()] == [[f"class {i}"] for i in range(4)]


def test_lists_stay_with_the_boxes():
    box = named(2)
    for changed in (box.to(torch.float64), box.convert("xywh"), box.resize((50, 30)), box.transpose(FLIP_LEFT_RIGHT)):
        assert changed.get_field("names") == ["class 0", "class 1"]
    outside = BoxList([[200, 200, 300, 300], [1, 1, 9, 9]], SIZE)
    outside.add_field("names", ["outside", "inside"])
    assert outside.clip_to_image().get_field("names") == ["inside"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_lists_are_selected_on_a_gpu(device):
    chosen = named().to("cuda")[torch.tensor([False, True, False, True], device=device)]
    assert chosen.get_field("names") == ["class 1", "class 3"] and chosen.bbox[:, 0].tolist() == [1, 3]


@pytest.mark.parametrize("mode", ["xyxy", "xywh"])
def test_crop_moves_and_clips(mode):
    boxes = BoxList([[10.0, 10, 30, 20], [0, 0, 5, 5]], SIZE)
    boxes.add_field("labels", torch.tensor([1, 2]))
    cropped = boxes.convert(mode).crop((8, 12, 24, 40))
    assert cropped.size == (16, 28) and cropped.mode == mode and cropped.get_field("labels").tolist() == [1, 2]
    # The second box lies outside: both of its corners are clipped to the region's corner.
    assert cropped.convert("xyxy").bbox.tolist() == [[2, 0, 16, 8], [0, 0, 0, 0]]


def test_names_of_published_scripts():
    boxes, other = named(2), BoxList([[1, 2, 3, 4], [5, 6, 7, 9]], SIZE)
    other._copy_extra_fields(boxes)
    assert other.get_field("names") == ["class 0", "class 1"]
    for mode in ("xyxy", "xywh"):
        assert [side.tolist() for side in other.convert(mode)._split_into_xyxy()][2:] == [[[3], [7]], [[4], [9]]]
    assert other.copy_with_fields(["names", "absent"], skip_missing=True).fields() == ["names"]
    with pytest.raises(KeyError):
        other.copy_with_fields(["absent"])


@pytest.mark.parametrize("package", ["fcos_core", "maskrcnn_benchmark"])
def test_files_of_lists_are_read_without_running_code(tmp_path, package):
    torch.save([named(2)], tmp_path / "written_here.pth", _use_new_zipfile_serialization=False)
    # An old file is one pickle, in which only the class's path differs from one that was written here.
    content = (tmp_path / "written_here.pth").read_bytes()
    content = content.replace(b"fcos_core.structures", f"{package}.structures".encode())
    (tmp_path / "predictions.pth").write_bytes(content)
    (read,) = torch.load(tmp_path / "predictions.pth", weights_only=True)
    assert torch.equal(read.bbox, named(2).bbox) and read.get_field("names") == ["class 0", "class 1"]


def test_lists_of_published_code_lack_a_kind_of_pixels_and_are_inclusive():
    old = named(2)
    del old.continuous
    assert not old.continuous and not old[0].continuous and old.area().tolist() == [36, 36]


def detections(continuous):
    boxes = BoxList([[10, 20, 29, 59], [0, 0, 99, 49]], (100, 80), continuous=False).with_pixels(continuous)
    boxes.add_field("scores", torch.tensor([0.9, 0.25]))
    boxes.add_field("labels", torch.tensor([3, 1]))
    boxes.add_field("names", ["Café", "cat"])
    boxes.add_field("track_ids", torch.tensor([7, -1]))
    return boxes


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("mode", ["xyxy", "xywh"])
def test_other_libraries_get_the_width_as_x2_minus_x1_whatever_the_pixels(continuous, mode):
    boxes = detections(continuous).convert(mode)
    for_torchvision, for_supervision = boxes.to_torchvision(), boxes.to_supervision()
    assert for_torchvision["boxes"].tolist() == for_supervision.xyxy.tolist() == [[10, 20, 30, 60], [0, 0, 100, 50]]
    # The areas that both libraries compute are the numbers of pixels.
    assert for_supervision.box_area.tolist() == boxes.area().tolist() == [800, 5000]
    assert for_torchvision.keys() == {"boxes", "labels", "scores"} and for_torchvision["labels"].tolist() == [3, 1]
    assert for_supervision.class_id.tolist() == [2, 0] and for_supervision.data["class_name"].tolist() == [
        "Café",
        "cat",
    ]
    assert for_supervision.tracker_id.tolist() == [7, -1]


@pytest.mark.parametrize("continuous", [False, True])
def test_boxes_come_back_from_supervision_as_they_were(continuous):
    boxes = detections(continuous)
    back = BoxList.from_supervision(boxes.to_supervision(), boxes.size).with_pixels(continuous)
    assert torch.equal(back.bbox, boxes.bbox) and back.size == boxes.size and back.continuous == continuous
    assert back.fields() == boxes.fields()[:2] + ["track_ids", "names"] and back.get_field("names") == ["Café", "cat"]
    for name in ("scores", "labels", "track_ids"):
        assert torch.equal(back.get_field(name), boxes.get_field(name))


def test_boxes_without_fields_and_no_boxes_are_converted():
    bare = BoxList([[1, 2, 3, 4]], (10, 10))
    assert bare.to_torchvision().keys() == {"boxes"} and bare.to_supervision().confidence is None
    assert BoxList.from_supervision(bare.to_supervision(), (10, 10)).fields() == []
    none = detections(False)[[]]
    assert len(none.to_supervision()) == 0 and none.to_torchvision()["boxes"].shape == (0, 4)
    assert len(BoxList.from_supervision(none.to_supervision(), (10, 10))) == 0
