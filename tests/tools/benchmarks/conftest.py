"""Fixtures: a network of a few thousand weights and its inputs."""

import pytest
import torch

from benchmarks.models import make_detector, make_images

CPU = torch.device("cpu")


@pytest.fixture
def config(small_config):
    config = small_config.clone()
    config.MODEL.FCOS.NUM_CLASSES = 6
    return config


@pytest.fixture
def images():
    return make_images(2, 96, 128, CPU)


@pytest.fixture
def detector(config, images):
    return make_detector(config, images, candidates=300)
