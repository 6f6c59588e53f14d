"""Every configuration key with its default, its unit and its meaning.

A key whose name ends in _TRAIN or _TEST is used in that phase only. Sizes are in pixels.
The keys under "Accepted" appear in published YAML files and scripts; their published values have no effect. In a YAML
file, MODEL.WEIGHT, TEST.BEST_METRIC and lists may be left empty. A path may start with ~, the home folder.
"""

import torch

from fcos_core.config.node import Config

_C = Config()

# Folder for checkpoints, logs and results. Training resumes only from this folder.
_C.OUTPUT_DIR = "."
# Seed of the initial weights, the order of images, the flips and the scales.
_C.SEED = 0

_C.DISTRIBUTED = Config()
# Seconds that a process waits for other processes or for its data before it reports the delay and ends. The metrics
# must be computed within this time, because only the main process computes them while the others wait.
_C.DISTRIBUTED.TIMEOUT = 1800

# ---------------------------------------------------------------------------------------------- model
_C.MODEL = Config()
# "cuda": each process uses its own GPU. "cuda:0", "cuda:1", ...: all processes use that GPU. "cpu".
# The default is cuda if PyTorch finds a GPU, and cpu otherwise.
_C.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Weights to start from: a .pth, .safetensors or .pkl file, a URL (#NAME at its end names the cached file), zoo://NAME
# of weights/zoo.py, hf://ORGANIZATION/REPOSITORY/FILE or hf://timm/NAME of the Hugging Face hub, or a catalog:// name
# of paths_catalog.py. The optimizer's state and the iteration are not loaded. Empty: random initialization.
_C.MODEL.WEIGHT = ""
# Make every BatchNorm of an HRNet model a SyncBatchNorm, which trains on the statistics of the whole batch.
_C.MODEL.SYNCBN = False
# The same for any model (HRNet, MobileNetV2). The norms of ResNet stay frozen.
_C.MODEL.USE_SYNCBN = False

_C.MODEL.BACKBONE = Config()
# Name of a backbone in fcos_core.modeling.registry.BACKBONES: R-50-FPN-RETINANET, R-101-FPN-RETINANET,
# HRNET-W18, HRNET-W18-SMALL-V2, HRNET-W32, HRNET-W40, HRNET-W48, HRNET (width from HRNET.WIDTH), MNV2-FPN-RETINANET
# (MobileNetV2), and timm:NAME, any network NAME of timm whose maps have the strides 8, 16, 32 (for six levels also 4).
# Networks of timm start without weights; their BatchNorms keep their statistics unless USE_SYNCBN; no part is frozen.
_C.MODEL.BACKBONE.CONV_BODY = "R-50-FPN-RETINANET"
# ResNet: number of parts, counted from the input, whose weights are frozen. 0 or less: none; 1: the stem; 2: the stem
# and stage 1; and so on. MobileNetV2: the same, of its 18 features.
_C.MODEL.BACKBONE.FREEZE_CONV_BODY_AT = 2
# Activation checkpointing: stages, from 1 to 4, that keep only the input of each block (ResNet, stage 1 of HRNet) or
# module (HRNet) and compute the rest again in the backward pass. It takes less memory and more time, and cannot be
# used with BatchNorms that are trained.
_C.MODEL.BACKBONE.CHECKPOINT_STAGES = ()

_C.MODEL.RESNETS = Config()
# Groups of the 3x3 convolutions, and channels of each group: 1 x 64 is ResNet, 32 x 8 and 64 x 4 are ResNeXt.
_C.MODEL.RESNETS.NUM_GROUPS = 1
_C.MODEL.RESNETS.WIDTH_PER_GROUP = 64
# True: a block's stride is in its first 1x1 convolution (MSRA weights). False: in its 3x3 convolution (ResNeXt and
# torchvision weights).
_C.MODEL.RESNETS.STRIDE_IN_1X1 = True
# Channels of every FPN level and of the head, for ResNet models.
_C.MODEL.RESNETS.BACKBONE_OUT_CHANNELS = 256
# Stages (1 to 4) whose 3x3 convolutions are deformable.
_C.MODEL.RESNETS.STAGE_WITH_DCN = (False, False, False, False)
# Deformable convolutions of these stages: True: with a mask (version 2); False: without (version 1).
_C.MODEL.RESNETS.WITH_MODULATED_DCN = False
# Groups of channels that share their offsets.
_C.MODEL.RESNETS.DEFORMABLE_GROUPS = 1

_C.MODEL.HRNET = Config()
# Channels of the finest branch, branch 0; branch i has WIDTH * 2^i. 0: take the number in CONV_BODY's name.
_C.MODEL.HRNET.WIDTH = 0
# Channels of the two stem convolutions.
_C.MODEL.HRNET.STEM_CHANNELS = 64
# Bottleneck channels of stage 1; the output of stage 1 has four times as many channels.
_C.MODEL.HRNET.STAGE1_CHANNELS = 64
# For stages 1 to 4: modules in a row, parallel branches, and residual blocks in each branch of a module. Modules and
# blocks of HRNET-W18-SMALL-V2 are always (1, 1, 3, 2) and (2, 2, 2, 2).
_C.MODEL.HRNET.NUM_MODULES = (1, 1, 4, 3)
_C.MODEL.HRNET.NUM_BRANCHES = (1, 2, 3, 4)
_C.MODEL.HRNET.NUM_BLOCKS = (4, 4, 4, 4)
# True: training uses and tracks batch statistics, as training from scratch needs. False: the pretrained statistics
# stay fixed, for fine-tuning. SYNCBN True implies True.
_C.MODEL.HRNET.TRAIN_BN = False
_C.MODEL.HRNET.FPN = Config()
# Name of the neck; HRFPN is the only choice.
_C.MODEL.HRNET.FPN.TYPE = "HRFPN"
# Channels of every level and of the head, for HRNet models.
_C.MODEL.HRNET.FPN.OUT_CHANNEL = 256
# Stride of the 3x3 convolution of each level. 2: the levels have strides 8, 16, ...; 1: strides 4, 8, ...
_C.MODEL.HRNET.FPN.CONV_STRIDE = 2

_C.MODEL.FCOS = Config()
# Number of classes, including the background, which is label 0 (COCO: 81). 0: take it from the weights that are tested,
# or from the categories of DATASETS.TRAIN.
_C.MODEL.FCOS.NUM_CLASSES = 81
# Stride of each level; there are 5 or 6 levels.
_C.MODEL.FCOS.FPN_STRIDES = [8, 16, 32, 64, 128]
# For each level, the range, ends included, of max(l, t, r, b): the largest distance from a location to the sides of a
# box that the level is responsible for. Empty: [-1, 64], ..., [512, 1e8] for five levels and [-1, 32], ..., [512, 1e8]
# for six.
_C.MODEL.FCOS.TARGET_ASSIGN = []
# Number of 3x3 convolutions in each tower of the head.
_C.MODEL.FCOS.NUM_CONVS = 4
# Probability that the model predicts for every class at each location at the start of training.
_C.MODEL.FCOS.PRIOR_PROB = 0.01
# Focal loss: weight of the positives (alpha) and exponent (gamma).
_C.MODEL.FCOS.LOSS_ALPHA = 0.25
_C.MODEL.FCOS.LOSS_GAMMA = 2.0
# A class at a location is a candidate if its probability is above this threshold.
_C.MODEL.FCOS.INFERENCE_TH = 0.05
# Number of candidates that are kept per level before NMS.
_C.MODEL.FCOS.PRE_NMS_TOP_N = 1000
# NMS removes a box if its IoU with a box of the same class and a higher score is above this threshold.
_C.MODEL.FCOS.NMS_TH = 0.6
# Center sampling: a location is trained on a box only if it lies in the square around the box's centre whose sides are
# at most CENTER_SAMPLING_RADIUS * stride away from the centre. 0: it may lie anywhere in the box.
_C.MODEL.FCOS.CENTER_SAMPLING_RADIUS = 0.0
# Loss of the boxes: "iou", "linear_iou", "giou", "diou" or "ciou".
_C.MODEL.FCOS.IOU_LOSS_TYPE = "iou"
# False: the network predicts logarithms of distances in pixels. True: it predicts distances in strides, through a ReLU.
_C.MODEL.FCOS.NORM_REG_TARGETS = False
# Predict the box quality on the tower of the boxes (True) or of the classes (False).
_C.MODEL.FCOS.CENTERNESS_ON_REG = False
# Make the last convolution of each tower a modulated deformable convolution.
_C.MODEL.FCOS.USE_DCN_IN_TOWER = False
# Quality that the centerness layer learns: "ctrness", the centerness of the location, which also weights the box loss;
# "iou", the IoU of the predicted box with its target, with a box loss without weights.
_C.MODEL.FCOS.BOX_QUALITY = "ctrness"
# Divisor of the class loss: "positives_and_images", the number of positive locations and of images in the batch
# (HRNet-FCOS); "positives", the number of positive locations, at least 1 (later FCOS).
_C.MODEL.FCOS.LOSS_NORMALIZER = "positives_and_images"
# Score of a detection: "product", class probability times box quality (HRNet-FCOS); "sqrt", the square root of the
# product (later FCOS).
_C.MODEL.FCOS.SCORE = "product"

# Conventions of detectors that other frameworks have trained; each YAML file in configs/zoo sets those of its detector.
# INFERENCE_TH is compared with "class", the class probability, or with "score", the score of a detection.
_C.MODEL.FCOS.CANDIDATES = "class"
# The PRE_NMS_TOP_N best of a level are the best by "score" or by "class", the class probability.
_C.MODEL.FCOS.RANK_BY = "score"
# Position of the cell (x, y) of a level on the image: "center", (x * stride + stride // 2, y * stride + stride // 2);
# "corner", (x * (padded width // width of the level), y * (padded height // height of the level)).
_C.MODEL.FCOS.LOCATIONS = "center"
# "inclusive": a box covers the pixels x1 to x2, so its width is x2 - x1 + 1. "continuous": its width is x2 - x1.
_C.MODEL.FCOS.PIXELS = "inclusive"
# Boxes are clipped to the image "before_nms" or "after_nms".
_C.MODEL.FCOS.CLIP = "before_nms"
# Leave out boxes that have no width or no height after clipping.
_C.MODEL.FCOS.DROP_EMPTY = False

# ---------------------------------------------------------------------------------------------- input
_C.INPUT = Config()
# Shorter sides in training; one is drawn for each image.
_C.INPUT.MIN_SIZE_TRAIN = (800,)
# (lowest, highest): draw the shorter side from this range, ends included. (-1, -1): use MIN_SIZE_TRAIN.
_C.INPUT.MIN_SIZE_RANGE_TRAIN = (-1, -1)
# Cap on the longer side.
_C.INPUT.MAX_SIZE_TRAIN = 1333
# Shorter side in testing, and cap on the longer side.
_C.INPUT.MIN_SIZE_TEST = 800
_C.INPUT.MAX_SIZE_TEST = 1333
# Rule for the size and the interpolation of resized images, as the framework of that name has it. "fcos": antialiased
# bilinear, the longer side truncated. "detectron2": PIL's antialiased bilinear, both sides rounded. "mmdet": OpenCV's
# bilinear, both sides rounded. "torchvision": bilinear without antialiasing, in floats, both sides truncated.
_C.INPUT.RESIZE = "fcos"
# Width times height of the largest image that is decoded. A larger one counts as an image that cannot be read, because
# a small damaged or hostile file can claim any size. Decoding takes 3 bytes a pixel, or more.
_C.INPUT.MAX_PIXELS = 178956970
# Probability of a horizontal flip in training.
_C.INPUT.FLIP_PROB_TRAIN = 0.5
# Augmentation in training, off by default. Every random choice follows from (SEED, iteration, slot). All of it happens
# on a canvas of the image's drawn size; parts that no image covers have the mean color. A box that is cut keeps its
# visible part, if that is a fifth of it or more and 2 pixels wide and high.
_C.INPUT.AUG = Config()
# Probability of a vertical flip, for pictures without an up and a down, such as those of a microscope or a satellite.
_C.INPUT.AUG.VERTICAL_FLIP_PROB = 0.0
# Large-scale jitter (Ghiasi et al., 2021): the drawn size of the image times a factor from this range; what goes beyond
# the drawn size is cropped away at a random place, and a smaller image gets a random place. (1, 1): no jitter. Each
# image of a mosaic and of a mixup draws a factor of its own.
_C.INPUT.AUG.SCALE_RANGE = (1.0, 1.0)
# Zoom-out (SSD, section 2.2): probability that the image shrinks onto a larger canvas of the mean color; and the
# largest ratio of the canvas's sides to the image's. A mosaic is not zoomed out.
_C.INPUT.AUG.ZOOM_OUT_PROB = 0.0
_C.INPUT.AUG.ZOOM_OUT_MAX = 4.0
# IoU crop (SSD, section 2.2): probability of a random crop, 0.3 to 1 of each side, that has the center of a box in it
# and with this box a least IoU, drawn from (0, 0.1, 0.3, 0.5, 0.7, 0.9). If none of 40 random crops is such a one, the
# image is not cropped, as happens to most images of small objects if the IoU is high. The crop is scaled evenly up to
# the drawn size. A mosaic is not cropped.
_C.INPUT.AUG.IOU_CROP_PROB = 0.0
# Photometric distortion: probability of a random change of colors; each of brightness (0.875 to 1.125 times), contrast,
# saturation (both 0.5 to 1.5 times) and hue (up to a twentieth of the circle) then changes with probability 1/2.
_C.INPUT.AUG.PHOTOMETRIC_PROB = 0.0
# Mosaic (YOLOv4, section 3.4): probability that an image becomes a picture of four, which meet in the middle half. They
# keep their scale, so that a quarter shows a part of an image; SCALE_RANGE scales them.
_C.INPUT.AUG.MOSAIC_PROB = 0.0
# Mixup (Zhang et al., 2019, for detection): probability that an image is blended with another, with the boxes of both.
# The weights are about equal (Beta(8, 8)), because both images' boxes count in full.
_C.INPUT.AUG.MIXUP_PROB = 0.0
# Probability that up to 4 objects of rare classes are copied into the image from another, each where it covers least of
# the objects there. Rare are classes with fewer boxes in the training set than the mean over its classes. Not for a
# dataset class of one's own, which does not tell its boxes before it is read.
_C.INPUT.AUG.COPY_RARE_PROB = 0.0
# Share of the iterations, the last ones, that have no mosaic and no mixup, so that training ends on whole images.
_C.INPUT.AUG.MOSAIC_OFF_SHARE = 0.0
# Mean and standard deviation of each channel, in the channel order and the range that TO_BGR255 selects. The mean is
# subtracted from the image, and the result is divided by the standard deviation.
_C.INPUT.PIXEL_MEAN = [102.9801, 115.9465, 122.7717]
_C.INPUT.PIXEL_STD = [1.0, 1.0, 1.0]
# True: channels in the order BGR, values 0 to 255. False: RGB, values 0 to 1.
_C.INPUT.TO_BGR255 = True

# ------------------------------------------------------------------------------------------- datasets
_C.DATASETS = Config()
# Names of datasets, from fcos_core/config/paths_catalog.py or from CATALOG below.
_C.DATASETS.TRAIN = ()
_C.DATASETS.TEST = ()
# Folder that relative paths of datasets start from.
_C.DATASETS.DATA_DIR = "datasets"
# Your own datasets in COCO format: NAME: {img_dir: FOLDER, ann_file: FILE.json}.
_C.DATASETS.CATALOG = Config()
# Labels of a dataset whose detector has no class names: "id": by ascending category ids; "file": in the order in which
# the annotation file lists its categories, as published code numbers them. Checkpoints of this project have the names,
# and their order comes first.
_C.DATASETS.LABEL_ORDER = "id"
# True: datasets may list fewer categories than the detector has classes, such as 3 for published weights of 80 classes
# (MODEL.FCOS.NUM_CLASSES 81). Detections of the other classes are left out of the metrics. False: an error.
_C.DATASETS.FEWER_CATEGORIES = False
# Python file with the classes DatasetCatalog and ModelCatalog, as published code has them (docs/published_scripts.md).
# The file is run. Empty: the project's own catalog, and DATASETS.CATALOG.
_C.PATHS_CATALOG = ""

_C.DATALOADER = Config()
# Number of workers, that is, processes that read and transform images for one training process. 0: the training
# process reads them itself.
_C.DATALOADER.NUM_WORKERS = 4
# Height and width of a batch are padded to a multiple of this; the networks need a multiple of 32.
_C.DATALOADER.SIZE_DIVISIBILITY = 32
# Do not mix landscape and portrait images in a training batch.
_C.DATALOADER.ASPECT_RATIO_GROUPING = True
# Pad every training batch to the longest sides that INPUT allows: with the defaults, 1344x800 (width x height) for
# landscape images and 800x1344 for portrait images; a mixed batch takes the longer of both in width and in height.
# Batch statistics then see about the same amount of padding in every iteration.
_C.DATALOADER.PAD_TO_FIXED_SIZE = False
# True: images without a usable box are negatives in training. False: they are left out.
_C.DATALOADER.KEEP_EMPTY_IMAGES = False
# True: an image that cannot be read is skipped and counted; in training the next readable image of the dataset
# replaces it. False: an image that cannot be read ends the run.
_C.DATALOADER.SKIP_UNREADABLE = False
# True: before a training starts, its workers decode every image of the training and test datasets once, and all images
# that cannot be read are named together: in an error, or with SKIP_UNREADABLE in the log.
_C.DATALOADER.CHECK_IMAGES = False

# --------------------------------------------------------------------------------------------- solver
_C.SOLVER = Config()
# Last iteration, counted from 1. 0: derived from the number N of training images, so that training shows about
# ITER_FACTOR * 200 * N^0.75 images: small datasets are repeated more often than large ones. WARMUP_ITERS is then at
# most a tenth of it.
_C.SOLVER.MAX_ITER = 40000
_C.SOLVER.ITER_FACTOR = 1.0
# Learning rate after the warmup.
_C.SOLVER.BASE_LR = 0.001
# Factor on the learning rate, and weight decay, of every parameter with "bias" in its name.
_C.SOLVER.BIAS_LR_FACTOR = 2.0
_C.SOLVER.WEIGHT_DECAY_BIAS = 0.0
# Momentum of SGD, and weight decay of every other parameter.
_C.SOLVER.MOMENTUM = 0.9
_C.SOLVER.WEIGHT_DECAY = 0.0005
# Learning rate after the warmup. "steps": it is multiplied by GAMMA at each iteration of STEPS; "cosine": it falls to
# zero along half a cosine.
_C.SOLVER.SCHEDULE = "steps"
# The learning rate is multiplied by GAMMA at each iteration of STEPS (counted from 1). Empty and MAX_ITER 0: at two
# thirds and eight ninths of the iterations.
_C.SOLVER.GAMMA = 0.1
_C.SOLVER.STEPS = (30000,)
# Factor on the learning rate while the iteration is below WARMUP_ITERS. "constant": the factor is WARMUP_FACTOR;
# "linear": it grows from WARMUP_FACTOR to 1.
_C.SOLVER.WARMUP_FACTOR = 1.0 / 3
_C.SOLVER.WARMUP_ITERS = 500
_C.SOLVER.WARMUP_METHOD = "linear"
# Number of iterations between checkpoints.
_C.SOLVER.CHECKPOINT_PERIOD = 2500
# Number of the newest checkpoints model_NNNNNNN.pth that are kept; older ones are deleted. 0: keep all.
_C.SOLVER.CHECKPOINT_KEEP_LAST = 0
# Number of iterations between log lines, lines of metrics.jsonl and points of TensorBoard's curves.
_C.SOLVER.LOG_PERIOD = 20
# Images per batch, over all processes.
_C.SOLVER.IMS_PER_BATCH = 16
# Gradient accumulation: each process computes its share of a batch in this many parts, one after another, and needs
# the memory of one part. The gradients equal those of the whole batch, except with BatchNorms that are trained,
# because their statistics come from one part at a time.
_C.SOLVER.ACCUMULATE_STEPS = 1
# Precision of training. "float32"; "bfloat16": autocast; "float16": autocast with a gradient scaler.
_C.SOLVER.PRECISION = "float32"
# Train with weights and activations in channels_last memory format, which makes convolutions in half precision
# faster. Results and checkpoints stay the same, up to rounding.
_C.SOLVER.CHANNELS_LAST = True
# Compile the backbone's body and the head with torch.compile for training. Compiling takes minutes at the start, and
# again when a height, a width or a number of images changes for the first time. Results stay the same, up to rounding.
# A body whose BatchNorms are synchronized over several processes (MODEL.SYNCBN) is not compiled.
_C.SOLVER.COMPILE = False
# Largest norm of the gradient over all parameters; a longer gradient is scaled down to this norm. 0: no limit.
_C.SOLVER.CLIP_GRADIENT_NORM = 0.0
# Keep an exponential moving average of the weights: after each iteration it becomes
# average * EMA_DECAY + weights * (1 - EMA_DECAY). Checkpoints contain it as "ema"; see TEST.USE_EMA. 0: no average.
_C.SOLVER.EMA_DECAY = 0.0
# Factor on the learning rate of the layers that predict the offsets of deformable convolutions.
_C.SOLVER.DCONV_OFFSETS_LR_FACTOR = 1.0

# ------------------------------------------------------------------------------------------------ log
_C.LOG = Config()
# Experiment trackers that get the metrics of a training beside metrics.jsonl and TensorBoard: "wandb", "mlflow".
_C.LOG.TRACKERS = ()
# Name of the project (W&B) or of the experiment (MLflow).
_C.LOG.PROJECT = "fcos_core"

# ----------------------------------------------------------------------------------------------- test
_C.TEST = Config()
# Images per batch of one process. Only images that have the same padded size alone share a batch, and the processes
# take whole batches in turn: the detections of an image do not depend on this number or on the number of processes,
# up to float32 rounding.
_C.TEST.IMS_PER_BATCH = 8
# True: test_net.py compiles the detector before testing. It becomes faster and finds the same detections up to float32
# rounding (1e-4 in score). False: it runs as in training. Evaluations during training never compile the detector.
_C.TEST.COMPILE = False
# Precision of the compiled detector: "float32"; "bfloat16"; on GPUs also "tf32" (convolutions round their inputs) and
# "float16". docs/inference.md compares their speed and accuracy.
_C.TEST.PRECISION = "float32"
# Largest number of detections per image. COCO's metrics count the best 100 of an image and class; with a larger number
# the log and coco_results.json also have AP and AR of so many.
_C.TEST.DETECTIONS_PER_IMG = 100
# Number of iterations between evaluations on DATASETS.TEST during training. 0: no evaluation during training.
_C.TEST.EVAL_PERIOD = 0
# Metric on the first dataset of DATASETS.TEST by which the best model is chosen; it is saved as model_best.pth.
# AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm or ARl. Empty: model_best.pth is not saved.
_C.TEST.BEST_METRIC = "AP"
# Test the moving average of the weights (SOLVER.EMA_DECAY) instead of the weights.
_C.TEST.USE_EMA = False
# Package that computes the metrics. "pycocotools": the reference by COCO's authors. "faster_coco_eval": the same
# metrics in a fraction of the time, if the package is installed.
_C.TEST.EVALUATOR = "pycocotools"
# Write report.html beside the results of a test: curves, metrics of each class, confusions, the worst images.
_C.TEST.REPORT = True
# [["bbox", metric, mean, deviation], ...]: testing fails if a metric is more than EXPECTED_RESULTS_SIGMA_TOL deviations
# away from its mean.
_C.TEST.EXPECTED_RESULTS = []
_C.TEST.EXPECTED_RESULTS_SIGMA_TOL = 4.0
# Test-time augmentation, in every test and in Predictor: detect on several views of an image and merge what is found.
# The first view is the one of INPUT.MIN_SIZE_TEST. The time grows with the number of pixels of all views.
_C.TEST.BBOX_AUG = Config()
_C.TEST.BBOX_AUG.ENABLED = False
# Add the first view mirrored from left to right.
_C.TEST.BBOX_AUG.H_FLIP = False
# Shorter sides of further views, and cap on their longer side.
_C.TEST.BBOX_AUG.SCALES = ()
_C.TEST.BBOX_AUG.MAX_SIZE = 4000
# Add each view of SCALES mirrored from left to right.
_C.TEST.BBOX_AUG.SCALE_H_FLIP = False
# "nms": one non-maximum suppression over the candidates of all views (FCOS). "soft-vote": boxes of a class that overlap
# by VOTE_TH or more become their mean, see soft_vote in fcos_core/engine/test_time_augmentation.py (ATSS).
_C.TEST.BBOX_AUG.MERGE_TYPE = "nms"
# IoU from which boxes vote together.
_C.TEST.BBOX_AUG.VOTE_TH = 0.66

# ------------------------------------------------------------ Accepted: published values only, no effect
# The detector is always FCOS on a backbone with a neck. A value that asks for another detector or for masks is an
# error.
_C.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
_C.MODEL.RPN_ONLY = True
_C.MODEL.FCOS_ON = True
_C.MODEL.RETINANET_ON = False
_C.MODEL.MASK_ON = False
_C.MODEL.KEYPOINT_ON = False
_C.MODEL.CLS_AGNOSTIC_BBOX_REG = False
# P6 is always computed from P5, so True is an error.
_C.MODEL.RETINANET = Config()
_C.MODEL.RETINANET.USE_C5 = False
