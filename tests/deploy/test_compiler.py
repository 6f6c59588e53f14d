"""The compiled detector returns the detections of the detector, within 0.05 px and 1e-4 in score."""

import contextlib
import copy

import pytest
import torch
from random_detector import build_random_detector
from torch import nn

from fcos_core.config import cfg
from fcos_core.deploy import compiler, cuda_graphs
from fcos_core.deploy.cuda_graphs import GraphPerShape
from fcos_core.engine import compile_for_inference
from fcos_core.errors import InputError
from fcos_core.layers.conv_norm import convert_convs, has_fixed_statistics
from fcos_core.structures.image_list import ImageList

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
SIZES = [(64, 96), (50, 71)]


def build(*options):
    config = cfg.clone()
    config.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.FCOS.NUM_CLASSES", 4, "MODEL.FCOS.NUM_CONVS", 1, *options])
    return build_random_detector(config).eval()


RESNET = ["MODEL.BACKBONE.CONV_BODY", "R-50-FPN-RETINANET", "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 64]
DEFORMABLE_STAGES = ["MODEL.RESNETS.STAGE_WITH_DCN", (False, True, True, True)]
DEFORMABLE_STAGES += ["MODEL.RESNETS.WITH_MODULATED_DCN", True, "MODEL.FCOS.USE_DCN_IN_TOWER", True]
LATER = ["NORM_REG_TARGETS", True, "CENTERNESS_ON_REG", True, "USE_DCN_IN_TOWER", True, "SCORE", "sqrt"]
# The rules of each framework, without those on the network.
CONVENTIONS = {
    "mmdetection": ["RANK_BY", "class", "PIXELS", "continuous", "NMS_TH", 0.5, "DROP_EMPTY", True],
    "AdelaiDet": ["SCORE", "sqrt", "PIXELS", "continuous", "CLIP", "after_nms", "DROP_EMPTY", True],
    "torchvision": ["SCORE", "sqrt", "PIXELS", "continuous", "CANDIDATES", "score", "LOCATIONS", "corner"],
}


def fcos(options):
    return [f"MODEL.FCOS.{word}" if place % 2 == 0 else word for place, word in enumerate(options)]


@pytest.fixture(scope="module", params=["hrnet", "resnet", "later options", "deformable stages"])
def model(request):
    if request.param == "resnet":
        return build(*RESNET)
    if request.param == "deformable stages":
        return build(*RESNET, *DEFORMABLE_STAGES)
    return tiny_hrnet(*(fcos(LATER) if request.param == "later options" else ()))


def tiny_hrnet(*options):
    tiny = ["WIDTH", 4, "STEM_CHANNELS", 8, "STAGE1_CHANNELS", 4, "NUM_MODULES", (1,) * 4, "NUM_BLOCKS", (2,) * 4]
    keys = [f"MODEL.HRNET.{word}" if isinstance(word, str) else word for word in tiny]
    return build("MODEL.BACKBONE.CONV_BODY", "HRNET", "MODEL.HRNET.FPN.OUT_CHANNEL", 64, *keys, *options)


def images(sizes=SIZES, seed=0, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    height, width = (-(-max(sides) // 32) * 32 for sides in zip(*sizes, strict=True))
    batch = torch.zeros(len(sizes), 3, height, width, dtype=dtype)
    for slot, (h, w) in zip(batch, sizes, strict=True):
        slot[:, :h, :w] = torch.randn(3, h, w, generator=generator, dtype=dtype) * 50
    return ImageList(batch.to(device), sizes)


def check_same(found, expected, pixels=0.05, score=1e-4):
    assert sum(map(len, expected)) > 0
    for one, other in zip(found, expected, strict=True):
        assert (one.size, len(one)) == (other.size, len(other))
        other = other.to(one.bbox.device)
        torch.testing.assert_close(one.get_field("labels"), other.get_field("labels"))
        torch.testing.assert_close(one.get_field("scores"), other.get_field("scores"), rtol=0, atol=score)
        torch.testing.assert_close(one.bbox, other.bbox, rtol=0, atol=pixels)


def test_folded_norms_change_no_output_in_float64(model):
    plain = copy.deepcopy(model).double()
    converted = copy.deepcopy(plain)
    assert convert_convs(converted) == sum(map(has_fixed_statistics, plain.modules()))
    batch = images(dtype=torch.float64).tensors
    with torch.no_grad():
        outputs = [net.rpn.head(net.backbone(batch)) for net in (plain, converted)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-9, atol=1e-9)


def test_float32_detections_match_the_detector(model):
    with torch.no_grad():
        check_same(compile_for_inference(model)(images()), model(images()))


def test_bfloat16_scores_are_close_to_float32(model):
    compiled = compile_for_inference(model, precision="bfloat16")
    head = compiled.detector.rpn.head
    assert head.cls_logits.weight.dtype == torch.bfloat16 and head.bbox_pred.weight.dtype == torch.float32
    found, expected = compiled(images()), model(images())
    for one, other in zip(found, expected, strict=True):
        assert one.bbox.dtype == one.get_field("scores").dtype == torch.float32
        # A logit of 3 is rounded to steps of 1/64 in bfloat16, which moves its probability by at most 1/256. The
        # tolerance allows for several such steps.
        torch.testing.assert_close(one.get_field("scores")[:5], other.get_field("scores")[:5], rtol=0, atol=0.05)


def test_model_and_compiled_copy_do_not_change_each_other(model):
    trained = copy.deepcopy(model).train()
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    modes = [(type(module), module.training) for module in trained.modules()]
    gradients = [parameter.requires_grad for parameter in trained.parameters()]
    compiled = compile_for_inference(trained)
    expected = compiled(images())
    assert [(type(module), module.training) for module in trained.modules()] == modes
    assert [parameter.requires_grad for parameter in trained.parameters()] == gradients
    torch.testing.assert_close(trained.state_dict(), before, rtol=0, atol=0)
    for parameter in trained.parameters():
        nn.init.zeros_(parameter)
    check_same(compiled(images()), expected, pixels=0, score=0)


def test_train_does_not_leave_evaluation_mode(model):
    compiled = compile_for_inference(model)
    check_same(compiled.train()(images()), compiled.eval()(images()), pixels=0, score=0)


@pytest.mark.parametrize(
    "given",
    [
        images(),
        images([(32, 64)]),
        images([(64, 64), (64, 40), (33, 64)]),
        images([(64, 96)]).tensors,
        images([(64, 96)]).tensors[0],
        [torch.randn(3, 50, 70), torch.randn(3, 40, 90)],
    ],
    ids=["two", "small", "three", "tensor", "one image", "list"],
)
def test_accepts_every_image_input_of_the_detector(given):
    model = tiny_hrnet()
    with torch.no_grad():
        check_same(compile_for_inference(model)(given), model(given))


def test_surrounding_autocast_changes_nothing():
    compiled = compile_for_inference(tiny_hrnet())
    expected = compiled(images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check_same(compiled(images()), expected, pixels=0, score=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "one of float32, tf32, bfloat16, float16"),
        ({"precision": "tf32"}, "needs a CUDA device"),
        ({"precision": "float16"}, "needs a CUDA device"),
        ({"max_graphs": 0}, "1 or more"),
    ],
)
def test_unusable_arguments_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        compile_for_inference(tiny_hrnet(), device="cpu", **options)


def compile_without_capturing(detector, shapes, max_graphs):
    """Compile as for a GPU, but call the network itself instead of a CUDA graph, which needs a GPU.

    Each capture appends its batch shape to `shapes`.
    """
    network = compiler._Network(detector)

    def run(batch):
        return network(batch.tensors, network.clip_max(batch.image_sizes))

    def capture(batch):
        shapes.append(tuple(batch.tensors.shape))
        return run

    return compiler.CompiledDetector(detector, GraphPerShape(run, capture, max_graphs))


def test_network_of_fixed_shapes_matches_the_detector(model):
    with torch.no_grad():
        check_same(compile_without_capturing(copy.deepcopy(model), [], 1)(images()), model(images()))


@pytest.mark.parametrize("conventions", CONVENTIONS.values(), ids=CONVENTIONS)
def test_conventions_of_other_frameworks_hold_in_compiled_detectors(conventions):
    model = tiny_hrnet(*fcos(conventions), "MODEL.FCOS.PRE_NMS_TOP_N", 30)
    with torch.no_grad():
        expected = model(images())
        check_same(compile_for_inference(model)(images()), expected)
        check_same(compile_without_capturing(copy.deepcopy(model), [], 1)(images()), expected)
        ours = tiny_hrnet("MODEL.FCOS.PRE_NMS_TOP_N", 30)(images())
    assert all(boxes.continuous for boxes in expected)
    assert [boxes.bbox.tolist() for boxes in ours] != [boxes.bbox.tolist() for boxes in expected]


def test_each_padded_shape_is_captured_once():
    shapes = []
    compiled = compile_without_capturing(tiny_hrnet(), shapes, max_graphs=2)
    for height in (32, 64, 40, 20):
        compiled(images([(height, 64), (20, 60)]))
    # A height of 40 is padded to 64, and 20 to 32.
    assert shapes == [(2, 3, height, 64) for height in (64, 32)]


@pytest.mark.parametrize("channels", [1, 4, 8])
def test_images_without_3_channels_are_refused(channels):
    model = tiny_hrnet()
    for compiled in (compile_for_inference(model, device="cpu"), compile_without_capturing(model, [], 1)):
        with pytest.raises(InputError, match=f"Images have {channels} channels; a detector takes 3"):
            compiled(torch.zeros(1, channels, 32, 32))


@pytest.fixture(scope="module")
def gpu_model():
    return tiny_hrnet().cuda()


@needs_gpu
@pytest.mark.parametrize("parallel", [True, False], ids=["parallel", "series"])
def test_graphs_match_the_detector(model, parallel, monkeypatch):
    if not parallel:
        monkeypatch.setattr(cuda_graphs, "forked_streams", contextlib.nullcontext)
    on_gpu = copy.deepcopy(model).cuda()
    compiled = compile_for_inference(on_gpu)
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        # Shapes alternate, so that a graph runs on memory that another graph has written to.
        for seed, sizes in enumerate([SIZES, [(64, 64)], SIZES, [(40, 90), (64, 64), (33, 60)], [(64, 64)], SIZES]):
            check_same(compiled(images(sizes, seed)), on_gpu(images(sizes, seed, device="cuda")))


@needs_gpu
def test_branches_in_parallel_and_in_series_give_the_same_bits(gpu_model, monkeypatch):
    def detections():
        compiled = compile_for_inference(gpu_model)
        return [compiled(images()) for _ in range(3)]  # run, captured, replayed

    in_parallel = detections()
    monkeypatch.setattr(cuda_graphs, "forked_streams", contextlib.nullcontext)
    for found, expected in zip(in_parallel, detections(), strict=True):
        check_same(found, expected, pixels=0, score=0)


@needs_gpu
@pytest.mark.parametrize("precision", ["tf32", "bfloat16", "float16"])
def test_scores_of_other_gpu_precisions_are_close_to_float32(gpu_model, precision):
    compiled, expected = compile_for_inference(gpu_model, precision=precision), gpu_model(images(device="cuda"))
    for _ in range(2):
        for one, other in zip(compiled(images()), expected, strict=True):
            scores = other.get_field("scores").cpu()
            # The tolerance is that of bfloat16 on the CPU; tf32 and float16 round to finer steps.
            torch.testing.assert_close(one.get_field("scores")[:5], scores[:5], rtol=0, atol=0.05)


@needs_gpu
def test_graphs_are_launched_without_waiting_for_the_gpu(gpu_model):
    compiled = compile_for_inference(gpu_model)
    batch = images(device="cuda")
    _, expected = compiled(batch), compiled(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        rows = compiled.graphs(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    check_same(gpu_model.rpn.postprocess.to_box_lists(rows, batch.image_sizes), expected, pixels=0, score=0)


@needs_gpu
def test_dropped_graphs_free_their_memory(gpu_model):
    compiled = compile_for_inference(gpu_model, max_graphs=2)
    batches = [images([(height, 64)], device="cuda") for height in (32, 64, 96)]

    def run():
        for batch in batches:  # three shapes and two graphs: every batch has to be captured again
            for _ in range(2):
                compiled(batch)
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    run()  # the first run loads and chooses kernels, which takes memory once
    # The allocator may place small blocks differently in each run and then repeat; a leak would grow with every run.
    before, after = ([run() for _ in range(5)] for _ in range(2))
    assert {allocated for allocated, _ in before + after} == {before[0][0]}
    assert max(reserved for _, reserved in after) <= max(reserved for _, reserved in before)
