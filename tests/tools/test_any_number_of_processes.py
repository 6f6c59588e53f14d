"""Training command on one, two and four processes: the losses of each iteration are equal."""

import pytest
import torch

from fcos_core.utils.metrics_file import read_metrics

LOSSES = ("loss_cls", "loss_reg", "loss_centerness")
WORDS = (
    *("SOLVER.MAX_ITER", "3", "SOLVER.LOG_PERIOD", "1", "SOLVER.IMS_PER_BATCH", "4", "--skip-test"),
    *("INPUT.MIN_SIZE_RANGE_TRAIN", "(40, 96)", "DATALOADER.KEEP_EMPTY_IMAGES", "True"),
)
SYNCBN = ("MODEL.SYNCBN", "True", "DATALOADER.PAD_TO_FIXED_SIZE", "True")
FIXED = ("MODEL.HRNET.TRAIN_BN", "False")
RESNET = (
    *("MODEL.BACKBONE.CONV_BODY", "R-50-FPN-RETINANET", "MODEL.RESNETS.WIDTH_PER_GROUP", "4"),
    *("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", "64"),
)


def losses(workspace, name, words, processes, gpus=""):
    folder = workspace.folder / name
    words = (*WORDS, *words, "OUTPUT_DIR", str(folder))
    result = workspace.run_processes(processes, "train_net.py", *words, gpus=gpus)
    assert result.returncode == 0, result.stderr
    return [[row[loss] for loss in LOSSES] for row in read_metrics(folder / "metrics.jsonl")]


def without_boxes_in_one_image(workspace):
    workspace.dataset["annotations"] = [a for a in workspace.dataset["annotations"] if a["image_id"] != 3]
    workspace.write()


@pytest.mark.parametrize(("words", "counts"), [(SYNCBN, (2, 4)), (FIXED, (2,)), (RESNET, (4,))])
def test_losses_do_not_depend_on_the_number_of_processes(workspace, words, counts):
    without_boxes_in_one_image(workspace)
    alone = losses(workspace, "alone", words, 1)
    for count in counts:
        shared = losses(workspace, str(count), words, count)
        assert len(shared) == len(alone) == 3
        # The tolerance for float32 losses: both start from the same weights.
        assert shared[0] == pytest.approx(alone[0], rel=1e-5)
        # After two steps the weights differ by the rounding of gradients.
        for row, expected in zip(shared, alone, strict=True):
            assert row == pytest.approx(expected, rel=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("words", [SYNCBN, FIXED])
def test_two_processes_share_a_gpu(workspace, words):
    words = (*words, "MODEL.DEVICE", "cuda:0")
    alone, shared = (losses(workspace, str(count), words, count, gpus="0") for count in (1, 2))
    # TF32 convolutions round to 2^-11, and cuDNN may choose other algorithms for other batch sizes.
    for row, expected in zip(shared, alone, strict=True):
        assert row == pytest.approx(expected, rel=1e-2)
