"""Every configuration key, its default, its unit and its meaning.

A name ending in _TRAIN or _TEST holds for that phase alone. Sizes are in pixels.
Keys under "Accepted" are named by published YAML files and scripts and choose nothing here.
"""

import torch

from fcos_core.config.node import Config

_C = Config()

# Folder for checkpoints, logs and results; training resumes from it and from nowhere else.
_C.OUTPUT_DIR = "."
# Seeds weights, data order, flips and scales.
_C.SEED = 0

_C.DISTRIBUTED = Config()
# Seconds that a process waits for the others, or for its data, before it says so and ends. Evaluation, which the
# main process does alone, has to fit in.
_C.DISTRIBUTED.TIMEOUT = 1800

# ---------------------------------------------------------------------------------------------- model
_C.MODEL = Config()
# "cuda", each process on a GPU of its own; "cuda:0" and the like, all processes on that one; "cpu". cuda where
# there is one.
_C.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Weights to start from and nothing else: a .pth or .pkl file, a URL (#NAME names the cached file), or a
# catalog:// name of paths_catalog.py. Empty: random initialization.
_C.MODEL.WEIGHT = ""
# Every BatchNorm of an HRNet model becomes a SyncBatchNorm, trained on the statistics of the whole batch.
_C.MODEL.SYNCBN = False

_C.MODEL.BACKBONE = Config()
# A name in fcos_core.modeling.registry.BACKBONES: R-50-FPN-RETINANET, R-101-FPN-RETINANET,
# HRNET-W18, HRNET-W32, HRNET-W40, HRNET-W48, HRNET (width from HRNET.WIDTH).
_C.MODEL.BACKBONE.CONV_BODY = "R-50-FPN-RETINANET"
# ResNet: number of parts frozen from the input on; 0 or less none, 1 the stem, 2 stem and stage 1, ...
_C.MODEL.BACKBONE.FREEZE_CONV_BODY_AT = 2
# Stages, of 1 to 4, that keep only the input of each block (ResNet; stage 1 of HRNet) or module (HRNet) for the
# backward pass, which runs it again: less memory, more time. Not with BatchNorms that are trained.
_C.MODEL.BACKBONE.CHECKPOINT_STAGES = ()

_C.MODEL.RESNETS = Config()
# Groups and channels a group of the 3x3 convolutions: 1 x 64 is ResNet, 32 x 8 and 64 x 4 are ResNeXt.
_C.MODEL.RESNETS.NUM_GROUPS = 1
_C.MODEL.RESNETS.WIDTH_PER_GROUP = 64
# Stride in the first 1x1 convolution (MSRA weights) rather than in the 3x3 (ResNeXt, torchvision weights).
_C.MODEL.RESNETS.STRIDE_IN_1X1 = True
# Channels of every FPN level and of the head.
_C.MODEL.RESNETS.BACKBONE_OUT_CHANNELS = 256
# Later FCOS: deformable convolutions. Not built yet; anything but these defaults is an error that says so.
_C.MODEL.RESNETS.STAGE_WITH_DCN = (False, False, False, False)
_C.MODEL.RESNETS.WITH_MODULATED_DCN = False
_C.MODEL.RESNETS.DEFORMABLE_GROUPS = 1

_C.MODEL.HRNET = Config()
# Channels of the finest branch; branch i has WIDTH * 2^i. 0: the number in CONV_BODY's name.
_C.MODEL.HRNET.WIDTH = 0
# Channels of the two stem convolutions.
_C.MODEL.HRNET.STEM_CHANNELS = 64
# Bottleneck channels of stage 1; its output has four times as many.
_C.MODEL.HRNET.STAGE1_CHANNELS = 64
# For stages 1 to 4: modules in a row, parallel branches, and residual blocks a branch of each module.
_C.MODEL.HRNET.NUM_MODULES = (1, 1, 4, 3)
_C.MODEL.HRNET.NUM_BRANCHES = (1, 2, 3, 4)
_C.MODEL.HRNET.NUM_BLOCKS = (4, 4, 4, 4)
# Batch statistics are used and tracked in training, as training from scratch needs. Fine-tuning keeps the
# pretrained statistics fixed (False); SYNCBN implies True.
_C.MODEL.HRNET.TRAIN_BN = False
_C.MODEL.HRNET.FPN = Config()
# The neck; HRFPN is the only one.
_C.MODEL.HRNET.FPN.TYPE = "HRFPN"
# Channels of every level and of the head.
_C.MODEL.HRNET.FPN.OUT_CHANNEL = 256
# Stride of the 3x3 convolution of each level: 2 makes strides 8, 16, ...; 1 makes 4, 8, ...
_C.MODEL.HRNET.FPN.CONV_STRIDE = 2

_C.MODEL.FCOS = Config()
# Classes with the background, which is label 0 (COCO: 81).
_C.MODEL.FCOS.NUM_CLASSES = 81
# Stride in pixels of each level; their number (5 or 6) is the number of levels.
_C.MODEL.FCOS.FPN_STRIDES = [8, 16, 32, 64, 128]
# Per level, the range in pixels, ends included, of the largest of (l, t, r, b) of the boxes it takes.
# Empty: chosen by the number of levels, [-1, 64] ... [512, 1e8] for five, [-1, 32] ... [512, 1e8] for six.
_C.MODEL.FCOS.TARGET_ASSIGN = []
# 3x3 convolutions in each tower of the head.
_C.MODEL.FCOS.NUM_CONVS = 4
# Probability of every class at each location at the start of training.
_C.MODEL.FCOS.PRIOR_PROB = 0.01
# Focal loss: weight of positives and exponent.
_C.MODEL.FCOS.LOSS_ALPHA = 0.25
_C.MODEL.FCOS.LOSS_GAMMA = 2.0
# Candidates are classes whose probability at a location is above this.
_C.MODEL.FCOS.INFERENCE_TH = 0.05
# Candidates kept per level before NMS.
_C.MODEL.FCOS.PRE_NMS_TOP_N = 1000
# A box is dropped when its IoU with a better one of its class is above this.
_C.MODEL.FCOS.NMS_TH = 0.6
# Later FCOS. Not built yet; anything but these defaults is an error that says so.
_C.MODEL.FCOS.CENTER_SAMPLING_RADIUS = 0.0
_C.MODEL.FCOS.IOU_LOSS_TYPE = "iou"
_C.MODEL.FCOS.NORM_REG_TARGETS = False
_C.MODEL.FCOS.CENTERNESS_ON_REG = False
_C.MODEL.FCOS.USE_DCN_IN_TOWER = False

# ---------------------------------------------------------------------------------------------- input
_C.INPUT = Config()
# Shorter side in training, one drawn at random of those listed.
_C.INPUT.MIN_SIZE_TRAIN = (800,)
# (lowest, highest): the shorter side is drawn from the whole range, ends included; (-1, -1): MIN_SIZE_TRAIN.
_C.INPUT.MIN_SIZE_RANGE_TRAIN = (-1, -1)
# Cap on the longer side.
_C.INPUT.MAX_SIZE_TRAIN = 1333
_C.INPUT.MIN_SIZE_TEST = 800
_C.INPUT.MAX_SIZE_TEST = 1333
# Probability of a horizontal flip in training.
_C.INPUT.FLIP_PROB_TRAIN = 0.5
# Per channel, in the order that TO_BGR255 gives; the image minus the mean, divided by the deviation.
_C.INPUT.PIXEL_MEAN = [102.9801, 115.9465, 122.7717]
_C.INPUT.PIXEL_STD = [1.0, 1.0, 1.0]
# True: channels BGR in 0-255. False: RGB in 0-1.
_C.INPUT.TO_BGR255 = True

# ------------------------------------------------------------------------------------------- datasets
_C.DATASETS = Config()
# Names from fcos_core/config/paths_catalog.py or from CATALOG below.
_C.DATASETS.TRAIN = ()
_C.DATASETS.TEST = ()
# What relative paths of datasets are relative to.
_C.DATASETS.DATA_DIR = "datasets"
# Datasets of one's own, by name: {img_dir: FOLDER, ann_file: FILE.json} in COCO format.
_C.DATASETS.CATALOG = Config()

_C.DATALOADER = Config()
# Processes that read and transform images; 0: the training process itself.
_C.DATALOADER.NUM_WORKERS = 4
# Batches are padded to a multiple of this; 32 is the least that the networks can take.
_C.DATALOADER.SIZE_DIVISIBILITY = 32
# Landscape and portrait images are not mixed in a training batch.
_C.DATALOADER.ASPECT_RATIO_GROUPING = True
# Every training batch is padded to one size: the longest sides that INPUT allows, 1344x800 (width x height) for
# landscape, 800x1344 for portrait images, the larger of both where a batch mixes. Batch statistics then see the
# same share of padding at every iteration.
_C.DATALOADER.PAD_TO_FIXED_SIZE = False
# Images without a usable box are trained on as negatives rather than dropped.
_C.DATALOADER.KEEP_EMPTY_IMAGES = False
# An image that cannot be read is skipped and counted rather than ending the run.
_C.DATALOADER.SKIP_UNREADABLE = False

# --------------------------------------------------------------------------------------------- solver
_C.SOLVER = Config()
_C.SOLVER.MAX_ITER = 40000
_C.SOLVER.BASE_LR = 0.001
# A parameter with "bias" in its name has its learning rate multiplied by this, and its own weight decay.
_C.SOLVER.BIAS_LR_FACTOR = 2.0
_C.SOLVER.WEIGHT_DECAY_BIAS = 0.0
_C.SOLVER.MOMENTUM = 0.9
_C.SOLVER.WEIGHT_DECAY = 0.0005
# The learning rate is multiplied by GAMMA at each of STEPS (1-based iterations).
_C.SOLVER.GAMMA = 0.1
_C.SOLVER.STEPS = (30000,)
# "constant": WARMUP_FACTOR while the iteration is below WARMUP_ITERS; "linear": from there to 1.
_C.SOLVER.WARMUP_FACTOR = 1.0 / 3
_C.SOLVER.WARMUP_ITERS = 500
_C.SOLVER.WARMUP_METHOD = "linear"
# Iterations between checkpoints.
_C.SOLVER.CHECKPOINT_PERIOD = 2500
# Of the checkpoints model_NNNNNNN.pth, this many newest are kept; 0: all.
_C.SOLVER.CHECKPOINT_KEEP_LAST = 0
# Iterations between log lines, lines of metrics.jsonl and points of TensorBoard's curves.
_C.SOLVER.LOG_PERIOD = 20
# Images a batch over all processes together.
_C.SOLVER.IMS_PER_BATCH = 16
# Each process takes its share of a batch in this many parts, one after another, in the memory of one part. The
# gradients are those of the whole batch, save for BatchNorms that are trained: they see a part at a time.
_C.SOLVER.ACCUMULATE_STEPS = 1
# "float32"; "bfloat16" or "float16": autocast to it in training, float16 with a gradient scaler.
_C.SOLVER.PRECISION = "float32"
# Weights and activations lie in memory with the channels last in training, as convolutions in half precision want
# them. Numbers and checkpoints stay what they are, up to rounding.
_C.SOLVER.CHANNELS_LAST = True
# The backbone's body and the head are compiled (torch.compile) in training: minutes at the start, and again when a
# height, a width or a number of images first changes. Numbers stay what they are, up to rounding. A body whose
# BatchNorms are over several processes (MODEL.SYNCBN) is left as it is.
_C.SOLVER.COMPILE = False
# The gradient's norm over all parameters is brought down to this; 0: left as it is.
_C.SOLVER.CLIP_GRADIENT_NORM = 0.0
# An average of the weights is kept, average * EMA_DECAY + weights * (1 - EMA_DECAY) after each iteration, and
# saved as "ema" in checkpoints; 0: none. TEST.USE_EMA tests it.
_C.SOLVER.EMA_DECAY = 0.0
# Later FCOS: learning-rate factor of deformable offsets; has no effect before deformable convolutions.
_C.SOLVER.DCONV_OFFSETS_LR_FACTOR = 1.0

# ----------------------------------------------------------------------------------------------- test
_C.TEST = Config()
# Images a batch. Batches, and so the padding of each image, are the same for any number of processes: they take
# whole batches in turn.
_C.TEST.IMS_PER_BATCH = 8
# The detector of MODEL.WEIGHT is compiled before it is tested: faster, the same detections up to float32 rounding
# (1e-4 in score). False runs it as it is in training, which is also how it is evaluated during training.
_C.TEST.COMPILE = False
# Of the compiled detector: "float32"; "bfloat16"; on GPUs also "tf32" (convolutions that round their inputs) and
# "float16". docs/inference.md says what each costs and gains.
_C.TEST.PRECISION = "float32"
# Detections kept an image.
_C.TEST.DETECTIONS_PER_IMG = 100
# Iterations between evaluations on DATASETS.TEST during training; 0: none.
_C.TEST.EVAL_PERIOD = 0
# Metric of the first dataset of DATASETS.TEST: the evaluation that gave most of it is kept as model_best.pth.
# AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl; empty: none is kept.
_C.TEST.BEST_METRIC = "AP"
# The average of the weights (SOLVER.EMA_DECAY) is tested rather than the weights.
_C.TEST.USE_EMA = False
# "pycocotools", COCO's own; "faster_coco_eval" gives the same metrics in a fraction of the time, where installed.
_C.TEST.EVALUATOR = "pycocotools"
# [["bbox", metric, mean, deviation], ...]: a metric more than SIGMA_TOL deviations off its mean is an error.
_C.TEST.EXPECTED_RESULTS = []
_C.TEST.EXPECTED_RESULTS_SIGMA_TOL = 4.0
# Test-time augmentation of later FCOS. Not built yet; ENABLED True is an error that says so.
_C.TEST.BBOX_AUG = Config()
_C.TEST.BBOX_AUG.ENABLED = False
_C.TEST.BBOX_AUG.H_FLIP = False
_C.TEST.BBOX_AUG.SCALES = ()
_C.TEST.BBOX_AUG.MAX_SIZE = 4000
_C.TEST.BBOX_AUG.SCALE_H_FLIP = False

# ----------------------------------------------------------------- Accepted: what they once chose is fixed
# The detector is always FCOS on a backbone with a neck; asking for another one or for masks is an error.
_C.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
_C.MODEL.RPN_ONLY = True
_C.MODEL.FCOS_ON = True
_C.MODEL.RETINANET_ON = False
_C.MODEL.MASK_ON = False
_C.MODEL.KEYPOINT_ON = False
_C.MODEL.CLS_AGNOSTIC_BBOX_REG = False
# P6 always comes from P5.
_C.MODEL.RETINANET = Config()
_C.MODEL.RETINANET.USE_C5 = False
# Later FCOS: SyncBatchNorm in every model. Not built yet; True is an error that says so.
_C.MODEL.USE_SYNCBN = False
