"""Fixtures: a network of a few thousand weights and its inputs."""

import pytest
import torch

from benchmarks.models import make_detector, make_images
from fcos_core.config import cfg

CPU = torch.device("cpu")


@pytest.fixture
def config():
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.BACKBONE.CONV_BODY": "HRNET",
        "MODEL.HRNET.WIDTH": 4,
        "MODEL.HRNET.STEM_CHANNELS": 8,
        "MODEL.HRNET.STAGE1_CHANNELS": 4,
        "MODEL.HRNET.NUM_MODULES": (1, 1, 1, 1),
        "MODEL.HRNET.NUM_BLOCKS": (1, 1, 1, 1),
        "MODEL.HRNET.FPN.OUT_CHANNEL": 64,
        "MODEL.FCOS.NUM_CLASSES": 6,
        "MODEL.FCOS.NUM_CONVS": 1,
    }
    config = cfg.clone()
    config.merge_from_list([word for option in options.items() for word in option])
    return config


@pytest.fixture
def images():
    return make_images(2, 96, 128, CPU)


@pytest.fixture
def detector(config, images):
    return make_detector(config, images, candidates=300)
