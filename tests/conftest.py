"""Settings of every test, and a small network."""

import multiprocessing

import pytest
from hypothesis import settings

from fcos_core.config import Config, cfg

# The same examples in every run, however slow the machine.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# Processes of "forkserver" begin with these modules imported, which takes five seconds of each new interpreter.
multiprocessing.set_forkserver_preload(
    [
        "fcos_core.engine.test",
        "fcos_core.engine.train",
        "torch._dynamo",
        "torch.distributed.run",
        "torch.utils.tensorboard",
    ]
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that none is left to a single worker at the end.

    Those are the files with slow tests, a notebook among them, and the files that start commands.
    """
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, item.path.parent.name != "tools"))


@pytest.fixture(scope="session")
def small_config() -> Config:
    """A network of a few thousand weights on the CPU; clone it before a change."""
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.BACKBONE.CONV_BODY": "HRNET",
        "MODEL.HRNET.WIDTH": 4,
        "MODEL.HRNET.STEM_CHANNELS": 8,
        "MODEL.HRNET.STAGE1_CHANNELS": 4,
        "MODEL.HRNET.NUM_MODULES": (1, 1, 1, 1),
        "MODEL.HRNET.NUM_BLOCKS": (1, 1, 1, 1),
        "MODEL.HRNET.FPN.OUT_CHANNEL": 64,
        "MODEL.FCOS.NUM_CONVS": 1,
    }
    config = cfg.clone()
    config.merge_from_list([word for option in options.items() for word in option])
    return config
