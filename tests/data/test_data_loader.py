"""Test make_data_loader from files to batches: the same for any number of workers and ranks; its errors."""

import logging
import multiprocessing
import os
import signal
from itertools import chain

import pytest
import torch
from coco_trees import annotation, tree_of
from PIL import Image

from fcos_core.data import make_data_loader, worker_failures
from fcos_core.data.reader import ReadBatch
from fcos_core.data.worker_failures import Parcel, explain_dead_workers
from fcos_core.errors import InputError
from fcos_core.structures.image_list import PixelNormalization
from fcos_core.utils import comm

# Landscape, portrait and square.
SIZES = [(48, 36), (36, 48), (50, 30), (40, 40), (30, 50), (64, 36), (44, 40), (40, 44), (60, 40), (36, 40)]
GENERAL = ["SOLVER.MAX_ITER", 8, "INPUT.MIN_SIZE_RANGE_TRAIN", (30, 50)]


def split(cfg, monkeypatch, rank: int, world_size: int, **options):
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)
    return make_data_loader(cfg, is_distributed=True, **options)


def unpadded(loader) -> list[list[tuple]]:
    """Return, for each batch, (image without padding, boxes, labels, index) of each sample."""
    return [
        [
            (images.normalize().tensors[slot, :, :height, :width], target.bbox, target.get_field("labels"), index)
            for slot, ((height, width), target, index) in enumerate(
                zip(images.image_sizes, targets, indices, strict=True)
            )
        ]
        for images, targets, indices in loader
    ]


def assert_same(first, second):
    assert [[s[3] for s in batch] for batch in first] == [[s[3] for s in batch] for batch in second]
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_any_number_of_workers_gives_the_same_training_batches(make_cfg):
    cfg = make_cfg({"a": tree_of(SIZES, boxes_each=2)}, *GENERAL)
    expected = unpadded(make_data_loader(cfg))
    assert len(expected) == 8 and all(len(batch) == 4 for batch in expected)
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_same(unpadded(make_data_loader(cfg)), expected)


def test_any_number_of_processes_gives_the_same_training_batches(make_cfg, monkeypatch):
    cfg = make_cfg({"a": tree_of(SIZES)}, *GENERAL)
    expected = unpadded(make_data_loader(cfg))
    parts = [unpadded(split(cfg, monkeypatch, rank, 2)) for rank in range(2)]
    assert_same([list(chain.from_iterable(shares)) for shares in zip(*parts, strict=True)], expected)


def test_resuming_gives_the_batches_that_were_to_come(make_cfg):
    cfg = make_cfg({"a": tree_of(SIZES)}, *GENERAL)
    expected = unpadded(make_data_loader(cfg))
    resumed = make_data_loader(cfg, start_iter=5)
    assert len(resumed) == 3
    assert_same(unpadded(resumed), expected[5:])


def test_the_global_generators_are_neither_used_nor_heeded(make_cfg):
    cfg = make_cfg({"a": tree_of(SIZES)}, *GENERAL)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = unpadded(make_data_loader(cfg))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert_same(unpadded(make_data_loader(cfg)), first)


def test_seeds_differ(make_cfg):
    cfg = make_cfg({"a": tree_of(SIZES)}, *GENERAL)
    orders = []
    for cfg.SEED in (0, 1):
        orders.append([batch[2] for batch in make_data_loader(cfg)])
    assert orders[0] != orders[1]


def test_training_draws_both_flips_and_several_scales(make_cfg):
    cfg = make_cfg({"a": tree_of([(48, 36)])}, "SOLVER.MAX_ITER", 20, "SOLVER.IMS_PER_BATCH", 1)
    boxes = [target.bbox[0] for _, (target,), _ in make_data_loader(cfg)]
    # MIN_SIZE_TRAIN is (32, 40). The only box is 1 px from the left side and 37 px from the right side.
    assert len({round(float(box[3] - box[1])) for box in boxes}) == 2
    assert {bool(box[0] > 20) for box in boxes} == {False, True}


@pytest.mark.parametrize("grouping", [True, False])
def test_aspect_ratio_grouping(make_cfg, grouping):
    cfg = make_cfg({"a": tree_of(SIZES)}, "DATALOADER.ASPECT_RATIO_GROUPING", grouping, "SOLVER.MAX_ITER", 30)
    mixed = [
        len({SIZES[index][0] < SIZES[index][1] for index in indices}) == 2 for _, _, indices in make_data_loader(cfg)
    ]
    assert any(mixed) != grouping


def test_a_square_image_goes_with_landscape_ones(make_cfg):
    cfg = make_cfg({"a": tree_of([(40, 30), (40, 40), (30, 40)])}, "SOLVER.MAX_ITER", 12)
    batches = {frozenset(indices) for _, _, indices in make_data_loader(cfg)}
    assert batches == {frozenset([0, 1]), frozenset([2])}


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("world_size", [2, 4])
def test_shares_of_a_batch_are_padded_as_the_whole(make_cfg, monkeypatch, world_size, fixed):
    words = ("SOLVER.MAX_ITER", 6, "SOLVER.IMS_PER_BATCH", 4, "DATALOADER.ASPECT_RATIO_GROUPING", False)
    words += ("INPUT.MIN_SIZE_RANGE_TRAIN", (20, 120), "INPUT.MAX_SIZE_TRAIN", 160)
    cfg = make_cfg({"a": tree_of(SIZES)}, *words, "DATALOADER.PAD_TO_FIXED_SIZE", fixed)
    whole = list(make_data_loader(cfg))
    shares = [list(split(cfg, monkeypatch, rank, world_size)) for rank in range(world_size)]
    for iteration, (images, _, indices) in enumerate(whole):
        parts = [share[iteration] for share in shares]
        assert torch.equal(images.normalize().tensors, torch.cat([part[0].normalize().tensors for part in parts]))
        assert indices == [index for part in parts for index in part[2]]
    # The longest sides are 120 and 160 pixels, which are padded to multiples of 32.
    at_fixed_sizes = {side for images, _, _ in whole for side in images.padded_size} <= {128, 160}
    assert at_fixed_sizes == fixed


def test_what_replaces_an_unreadable_image_fits_the_size_of_its_batch(make_cfg):
    # The wide image replaces the unreadable narrow image; other ranks pad to the narrow image's size.
    words = ("SOLVER.MAX_ITER", 4, "SOLVER.IMS_PER_BATCH", 1, "DATALOADER.SKIP_UNREADABLE", True)
    cfg = make_cfg({"a": tree_of([(40, 40), (90, 40)])}, *words)
    path = make_data_loader(cfg).dataset.image_path(0)
    with open(path, "wb") as file:
        file.write(b"not an image")
    batches = list(make_data_loader(cfg))
    needed = [images.padded_size[1] for images, _, _ in batches]
    assert len(set(needed)) == 2 and all(indices == [1] for _, _, indices in batches)
    for images, (target,), _ in batches:
        height, width = images.image_sizes[0]
        assert target.size == (width, height)
        assert width <= images.padded_size[1] and height <= images.padded_size[0]


def test_several_training_sets_are_one(make_cfg):
    cfg = make_cfg({"a": tree_of(SIZES[:2]), "b": tree_of(SIZES[2:5])}, "SOLVER.MAX_ITER", 5)
    loader = make_data_loader(cfg)
    assert len(loader.dataset) == 5
    assert {index for _, _, indices in loader for index in indices} == set(range(5))
    assert loader.dataset.image_id(2) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_testing_takes_every_image_once_unflipped(make_cfg, workers):
    tree = tree_of(SIZES)
    tree["annotations"] = tree["annotations"][:3]
    cfg = make_cfg({"a": tree, "b": tree_of(SIZES[:3])}, "TEST.IMS_PER_BATCH", 4)
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.INPUT.FLIP_PROB_TRAIN = 1.0
    first, second = make_data_loader(cfg, is_train=False)
    batches = list(first)
    assert len(first) == len(batches) == 4
    # Padded to 64x32 (width x height), 32x64 and, alone, 32x32; larger batches first.
    assert [batch[2] for batch in batches] == [[0, 2, 5, 6], [1, 4, 7, 9], [8], [3]]
    # The shorter side becomes 32, the longer 48 * 32 / 36 = 42.67, truncated; x = 1 becomes 42 / 48.
    assert batches[0][0].image_sizes[0] == (32, 42)
    assert batches[0][1][0].bbox[0, 0].item() == pytest.approx(42 / 48)
    assert [batch[2] for batch in second] == [[0, 2], [1]]


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_same_test_batches(make_cfg, monkeypatch, world_size):
    cfg = make_cfg({"a": tree_of(SIZES)}, "TEST.IMS_PER_BATCH", 3)
    expected = [
        (images.normalize().tensors, indices) for images, _, indices in make_data_loader(cfg, is_train=False)[0]
    ]
    for rank in range(world_size):
        (loader,) = split(cfg, monkeypatch, rank, world_size, is_train=False)
        part = [(images.normalize().tensors, indices) for images, _, indices in loader]
        torch.testing.assert_close(part, expected[rank::world_size], rtol=0, atol=0)


def break_image(cfg, name: str, *numbers: int) -> None:
    """Cut image files short."""
    for number in numbers:
        path = os.path.join(cfg.DATASETS.CATALOG[name].img_dir, f"{number}.png")
        with open(path, "rb") as file:
            data = file.read()
        with open(path, "wb") as file:
            file.write(data[: len(data) // 3])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("is_train", [True, False])
def test_an_unreadable_image_ends_the_run_with_a_plain_sentence(make_cfg, workers, is_train):
    cfg = make_cfg({"a": tree_of(SIZES)}, "DATALOADER.NUM_WORKERS", workers)
    break_image(cfg, "a", 3)
    loader = make_data_loader(cfg, is_train=is_train)
    with pytest.raises(InputError) as caught:
        list(loader if is_train else loader[0])
    assert str(caught.value).startswith("The image '") and "3.png" in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_of_another_size_ends_the_run_even_where_unreadable_ones_are_skipped(make_cfg, workers):
    cfg = make_cfg({"a": tree_of(SIZES)}, "DATALOADER.NUM_WORKERS", workers, "DATALOADER.SKIP_UNREADABLE", True)
    Image.new("RGB", (5, 5)).save(os.path.join(cfg.DATASETS.CATALOG.a.img_dir, "1.png"))
    with pytest.raises(InputError, match=r"^The image .*1\.png' is 5x5 .* says 48x36"):
        list(make_data_loader(cfg, is_train=False)[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_testing_leaves_out_unreadable_images_and_counts_them(make_cfg, workers, caplog):
    cfg = make_cfg({"a": tree_of(SIZES)}, "DATALOADER.SKIP_UNREADABLE", True, "TEST.IMS_PER_BATCH", 2)
    cfg.DATALOADER.NUM_WORKERS = workers
    break_image(cfg, "a", 1, 5, 6)
    os.remove(os.path.join(cfg.DATASETS.CATALOG.a.img_dir, "9.png"))
    (loader,) = make_data_loader(cfg, is_train=False)
    with caplog.at_level(logging.WARNING):
        # Ids start at 1, indices at 0. Planned are [0, 2] [5, 6] [1, 4] [7, 9] [8] [3]; the whole of [8] is unreadable.
        assert [indices for _, _, indices in loader] == [[2], [6], [1], [7, 9], [3]]
    assert loader.num_unreadable == 4
    messages = [record.getMessage() for record in caplog.records if "unreadable" in record.getMessage()]
    assert [("1.png" in messages[0]), ("9.png" in messages[3])] == [True, True]
    assert messages[-1].endswith("4 so far.") and len(messages) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_training_puts_the_next_readable_image_in_place(make_cfg, workers, caplog):
    settings = ["DATALOADER.ASPECT_RATIO_GROUPING", False, "SOLVER.MAX_ITER", 6]
    cfg = make_cfg({"a": tree_of(SIZES)}, *settings)
    planned = [indices for _, _, indices in make_data_loader(cfg)]
    cfg.merge_from_list(["DATALOADER.SKIP_UNREADABLE", True, "DATALOADER.NUM_WORKERS", workers])
    break_image(cfg, "a", 4, 5, 10)
    loader = make_data_loader(cfg)
    with caplog.at_level(logging.WARNING):
        actual = [indices for _, _, indices in loader]
    # Index 5 replaces indices 3 and 4 (ids 4 and 5); index 0 replaces the last index.
    stand_in = {3: 5, 4: 5, 9: 0}
    assert actual == [[stand_in.get(index, index) for index in batch] for batch in planned]
    tries = {3: 2, 4: 1, 9: 1}
    assert loader.num_unreadable == sum(tries.get(index, 0) for batch in planned for index in batch) > 0
    assert len([r for r in caplog.records if "Skipped" in r.getMessage()]) == loader.num_unreadable


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_at_all(make_cfg, is_train, workers):
    cfg = make_cfg({"a": tree_of(SIZES[:3])}, "DATALOADER.SKIP_UNREADABLE", True)
    cfg.DATALOADER.NUM_WORKERS = workers
    break_image(cfg, "a", 1, 2, 3)
    loader = make_data_loader(cfg, is_train=is_train)
    with pytest.raises(InputError, match=r"^None of the 3 images .*1\.png"):
        list(loader if is_train else loader[0])


def test_one_process_may_have_nothing_readable_where_another_has(make_cfg, monkeypatch):
    cfg = make_cfg({"a": tree_of(SIZES[:2])}, "DATALOADER.SKIP_UNREADABLE", True, "TEST.IMS_PER_BATCH", 1)
    break_image(cfg, "a", 2)
    shares = []
    for rank in range(3):
        (loader,) = split(cfg, monkeypatch, rank, 3, is_train=False)
        shares.append([indices for _, _, indices in loader])
    assert shares == [[[0]], [], []]


def test_missing_files_end_the_run_at_the_start_unless_skipped(make_cfg):
    cfg = make_cfg({"a": tree_of(SIZES)})
    os.remove(os.path.join(cfg.DATASETS.CATALOG.a.img_dir, "7.png"))
    with pytest.raises(InputError, match=r"1 of 10 images .* image 7, .*7\.png"):
        make_data_loader(cfg)


def test_empty_images_are_trained_on_where_kept(make_cfg):
    tree = tree_of(SIZES[:4])
    tree["annotations"] = [annotation(1, 1, [1, 2, 10, 12])]
    cfg = make_cfg({"a": tree})
    assert len(make_data_loader(cfg).dataset) == 1
    cfg.DATALOADER.KEEP_EMPTY_IMAGES = True
    loader = make_data_loader(cfg)
    assert len(loader.dataset) == 4
    assert {len(target) for _, targets, _ in loader for target in targets} == {0, 1}


def test_no_training_set(make_cfg):
    cfg = make_cfg({"a": tree_of(SIZES)}, "DATASETS.TRAIN", ())
    with pytest.raises(InputError, match=r"DATASETS\.TRAIN is empty"):
        make_data_loader(cfg)


@pytest.mark.parametrize("is_train", [True, False])
def test_the_number_of_classes_is_compared(make_cfg, is_train):
    cfg = make_cfg({"a": tree_of(SIZES)}, "MODEL.FCOS.NUM_CLASSES", 81)
    with pytest.raises(InputError, match=r"NUM_CLASSES is 81 but dataset a has 1 categories: write 2"):
        make_data_loader(cfg, is_train=is_train)


def test_a_batch_that_processes_cannot_share(make_cfg, monkeypatch):
    cfg = make_cfg({"a": tree_of(SIZES)}, "SOLVER.IMS_PER_BATCH", 5)
    with pytest.raises(InputError, match=r"SOLVER\.IMS_PER_BATCH is 5, which 2 processes"):
        split(cfg, monkeypatch, 0, 2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SEED", -1),
        ("INPUT.MIN_SIZE_TRAIN", ()),
        ("INPUT.MIN_SIZE_TRAIN", (0,)),
        ("INPUT.MIN_SIZE_TRAIN", ("x",)),
        ("INPUT.MIN_SIZE_RANGE_TRAIN", (50, 30)),
        ("INPUT.MIN_SIZE_RANGE_TRAIN", (0, 30)),
        ("INPUT.MIN_SIZE_RANGE_TRAIN", (30,)),
        ("INPUT.MIN_SIZE_TEST", 0),
        ("INPUT.FLIP_PROB_TRAIN", 1.5),
        ("INPUT.PIXEL_MEAN", [1.0]),
        ("INPUT.PIXEL_STD", [1.0, 0.0, 1.0]),
        ("DATALOADER.NUM_WORKERS", -1),
        ("DATALOADER.SIZE_DIVISIBILITY", 16),
        ("TEST.IMS_PER_BATCH", 0),
    ],
)
def test_keys_of_no_use_are_named(make_cfg, key, value):
    cfg = make_cfg({"a": tree_of(SIZES)}, key, value)
    with pytest.raises(InputError, match=rf"^{key} is "):
        make_data_loader(cfg)


def test_max_size_of_no_use_is_named(make_cfg):
    cfg = make_cfg({"a": tree_of(SIZES)}, "INPUT.MAX_SIZE_TEST", 0)
    with pytest.raises(InputError, match=r"MAX_SIZE_TEST is 0"):
        make_data_loader(cfg, is_train=False)


def test_a_batch_takes_one_file_descriptor_however_many_images_it_has(make_cfg, monkeypatch):
    cfg = make_cfg({"a": tree_of(SIZES, boxes_each=2)}, "SOLVER.IMS_PER_BATCH", 10, "SOLVER.MAX_ITER", 2)
    expected = unpadded(make_data_loader(cfg))
    shared = []
    share = torch.UntypedStorage._share_fd_cpu_
    count = lambda storage, *words: shared.append(storage) or share(storage, *words)  # noqa: E731
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", count)
    reader, plans = make_data_loader(cfg)._loader.dataset, list(make_data_loader(cfg)._loader.sampler)
    reads = [Parcel(reader.read(plan)).unpack() for plan in plans]
    assert len(shared) == len(reads) == 2
    assert_same(unpadded([read.batch for read in reads]), expected)


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("received 0 items of ancdata", r"too many files open.*`ulimit -n \d+`.*NUM_WORKERS"),
        ("[Errno 24] Too many open files", r"too many files open.*`ulimit -n \d+`"),
        (
            "unable to allocate shared memory(shm) for file </torch_1>: Success (0)",
            r"/dev/shm has \d+ MiB.*NUM_WORKERS",
        ),
        ("unable to write to file </torch_1>: No space left on device (28)", r"no shared memory.*--shm-size"),
    ],
)
def test_what_is_used_up_is_named_with_its_size_and_the_remedy(said, named):
    with pytest.raises(InputError, match=named):
        worker_failures._raise_if_exhausted(RuntimeError(said))
    worker_failures._raise_if_exhausted(RuntimeError("something else"))


def test_a_worker_without_shared_memory_ends_the_run_instead_of_dropping_the_batch(make_cfg, monkeypatch):
    def fail(*_):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: Success (0)")

    loader = make_data_loader(make_cfg({"a": tree_of(SIZES)}, "DATALOADER.NUM_WORKERS", 1))
    monkeypatch.setattr(Parcel, "__init__", fail)
    with pytest.raises(InputError, match="/dev/shm"):
        list(loader)


def test_what_a_dataset_raises_in_a_worker_is_not_taken_for_a_failure_of_the_worker(make_cfg, monkeypatch):
    loader = make_data_loader(make_cfg({"a": tree_of(SIZES)}, "DATALOADER.NUM_WORKERS", 1))

    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(type(loader.dataset), "__getitem__", fail)
    with pytest.raises(OSError, match="Caught OSError in DataLoader worker process"):
        list(loader)


def test_a_dead_worker_raises_where_batches_are_fetched_and_nowhere_else(make_cfg, monkeypatch):
    # At its end torch waits so long for the other worker, which may wait for a lock that the dead one holds.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    cfg = make_cfg({"a": tree_of(SIZES)}, "DATALOADER.NUM_WORKERS", 2, "SOLVER.MAX_ITER", 1000)
    handler = signal.getsignal(signal.SIGCHLD)
    batches = iter(make_data_loader(cfg))
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) == handler
    reader = multiprocessing.active_children()[0]
    os.kill(reader.pid, signal.SIGKILL)
    os.waitid(os.P_PID, reader.pid, os.WEXITED | os.WNOWAIT)
    sum(range(100_000))  # code that has nothing to do with the loader
    with pytest.raises(InputError, match=rf"A worker of the data loader has died: .*{reader.pid}.* killed"):
        list(batches)


def test_a_worker_ends_with_its_parent(monkeypatch):
    parents = iter([7, 7, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(worker_failures, "_PARENT_SECONDS", 0)
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    worker_failures._end_with(7)
    assert ended == [1]


@pytest.mark.parametrize(
    "said", ["DataLoader worker (pid 7) is killed by signal: Killed. ", "Pin memory thread exited unexpectedly"]
)
def test_a_worker_that_died_is_named_however_torch_says_so(said):
    with pytest.raises(InputError, match="A worker of the data loader has died"), explain_dead_workers():
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="something else"), explain_dead_workers():
        raise RuntimeError("something else")


def test_a_batch_pins_its_images_and_boxes(make_cfg, monkeypatch):
    ((images, targets, indices),) = list(make_data_loader(make_cfg({"a": tree_of(SIZES[:1] * 2)}), is_train=False)[0])
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    batch = ReadBatch((images, targets, indices), (), None).pin_memory().batch
    own = [images.pixels, *(tensor for target in targets for tensor in (target.bbox, target.get_field("labels")))]
    assert len(pinned) == len(own) == 5 and all(a is b for a, b in zip(pinned, own, strict=True))
    assert torch.equal(batch[0].pixels, images.pixels) and batch[0].image_sizes == images.image_sizes
    assert [target.size for target in batch[1]] == [target.size for target in targets] and batch[2] == indices
    assert ReadBatch(None, ("x",), None).pin_memory() == ReadBatch(None, ("x",), None)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_are_pinned_for_a_gpu_alone(make_cfg, monkeypatch, device):
    asked = []
    monkeypatch.setattr("fcos_core.data.loader.DataLoader", lambda *args, **options: asked.append(options))
    make_data_loader(make_cfg({"a": tree_of(SIZES)}, "MODEL.DEVICE", device))
    assert [options["pin_memory"] for options in asked] == [device == "cuda"]


def test_batches_travel_as_bytes(make_cfg):
    ((images, _, _),) = list(make_data_loader(make_cfg({"a": tree_of(SIZES[:1] * 2)}), is_train=False)[0])
    assert images.pixels.dtype == torch.uint8
    assert images.normalization == PixelNormalization((102.9801, 115.9465, 122.7717), (1, 1, 1), to_bgr255=True)


def test_an_image_larger_than_the_limit_ends_the_run_at_the_start_unless_skipped(make_cfg):
    cfg = make_cfg({"a": tree_of([(48, 36), (64, 36)])}, "INPUT.MAX_PIXELS", 2000)
    with pytest.raises(InputError, match=r"^Image 2 of .*2\.png, has 2304 pixels.*set INPUT\.MAX_PIXELS 2304"):
        make_data_loader(cfg)
    cfg.merge_from_list(["DATALOADER.SKIP_UNREADABLE", True])
    loader = make_data_loader(cfg)
    assert {index for _, _, indices in loader for index in indices} == {0} and loader.num_unreadable
