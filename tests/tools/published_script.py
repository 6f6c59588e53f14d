"""Train, test and take the solver's state out of a checkpoint, by the names and in the order of published scripts.

Usage: python -m fcos_core.as_maskrcnn_benchmark published_script.py CONFIG.yaml [KEY VALUE ...]
"""

# isort: skip_file
from maskrcnn_benchmark.utils.env import setup_environment  # noqa: F401  first, as published scripts do

import os
import sys

import torch

import fcos_core.config
from maskrcnn_benchmark.config import cfg
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.engine.inference import inference
from maskrcnn_benchmark.engine.trainer import do_train
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.solver import make_lr_scheduler, make_optimizer
from maskrcnn_benchmark.utils.checkpoint import DetectronCheckpointer
from maskrcnn_benchmark.utils.collect_env import collect_env_info
from maskrcnn_benchmark.utils.comm import get_rank, is_pytorch_1_1_0_or_later, synchronize
from maskrcnn_benchmark.utils.imports import import_file
from maskrcnn_benchmark.utils.logger import setup_logger
from maskrcnn_benchmark.utils.miscellaneous import mkdir


def test(model):
    for name, loader in zip(
        cfg.DATASETS.TEST, make_data_loader(cfg, is_train=False, is_distributed=False), strict=True
    ):
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", name)
        mkdir(folder)
        results, detections = inference(
            model,
            loader,
            dataset_name=name,
            iou_types=("bbox",),
            box_only=False if cfg.MODEL.FCOS_ON or cfg.MODEL.RETINANET_ON else cfg.MODEL.RPN_ONLY,
            device=cfg.MODEL.DEVICE,
            expected_results=[("bbox", "AP", (0.5, 0.5))],
            expected_results_sigma_tol=cfg.TEST.EXPECTED_RESULTS_SIGMA_TOL,
            output_folder=folder,
        )
        synchronize()
        images = torch.load(os.path.join(folder, "predictions.pth"))
        assert sum(len(boxes) for boxes in images) == len(detections["bbox"]), "predictions.pth is another result"
        print("tested", len(images), results.results["bbox"]["AP"])


assert cfg is fcos_core.config.cfg, "two configs"
cfg.merge_from_file(sys.argv[1])
cfg.merge_from_list(sys.argv[2:])
cfg.freeze()
mkdir(cfg.OUTPUT_DIR)
logger = setup_logger("maskrcnn_benchmark", cfg.OUTPUT_DIR, get_rank())
logger.info("\n%s", collect_env_info())

model = build_detection_model(cfg)
model.to(torch.device(cfg.MODEL.DEVICE))
assert is_pytorch_1_1_0_or_later()
optimizer = make_optimizer(cfg, model)
scheduler = make_lr_scheduler(cfg, optimizer)
arguments = {"iteration": 0}
checkpointer = DetectronCheckpointer(cfg, model, optimizer, scheduler, cfg.OUTPUT_DIR, get_rank() == 0)
arguments.update(checkpointer.load(cfg.MODEL.WEIGHT))
print("starts at", arguments["iteration"])
scheduler.milestones = cfg.SOLVER.STEPS
loader = make_data_loader(cfg, is_train=True, is_distributed=False, start_iter=arguments["iteration"])
period = cfg.SOLVER.CHECKPOINT_PERIOD
do_train(model, loader, optimizer, scheduler, checkpointer, torch.device(cfg.MODEL.DEVICE), period, arguments)
test(model)

tested = build_detection_model(cfg)
_ = DetectronCheckpointer(cfg, tested, save_dir=cfg.OUTPUT_DIR).load(cfg.MODEL.WEIGHT)
test(tested)

content = torch.load(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"))
del content["optimizer"]
del content["scheduler"]
torch.save(content, os.path.join(cfg.OUTPUT_DIR, "model_final_wo_solver_states.pth"))
assert import_file("catalog", cfg.PATHS_CATALOG, True).DatasetCatalog.get("coco_2014_train")["factory"]
