"""Tiny dataset, tiny network, and the real commands on them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
import yaml
from forked import ForkedCommand
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tiny_config():
    """Make a config of a network with a few thousand weights on 64-pixel images, with two classes."""
    return {
        "MODEL": {
            "DEVICE": "cpu",
            "BACKBONE": {"CONV_BODY": "HRNET"},
            "HRNET": {
                "WIDTH": 4,
                "STEM_CHANNELS": 8,
                "STAGE1_CHANNELS": 4,
                "NUM_MODULES": [1, 1, 1, 1],
                "NUM_BLOCKS": [1, 1, 1, 1],
                "TRAIN_BN": True,
                "FPN": {"OUT_CHANNEL": 64},
            },
            "FCOS": {"NUM_CLASSES": 3, "NUM_CONVS": 1},
        },
        "DATASETS": {
            "TRAIN": ["tiny"],
            "TEST": ["tiny"],
            "CATALOG": {"tiny": {"img_dir": "images", "ann_file": "tiny.json"}},
        },
        "INPUT": {"MIN_SIZE_TRAIN": [64], "MAX_SIZE_TRAIN": 96, "MIN_SIZE_TEST": 64, "MAX_SIZE_TEST": 96},
        "DATALOADER": {"NUM_WORKERS": 0},
        "SOLVER": {"MAX_ITER": 3, "IMS_PER_BATCH": 2, "CHECKPOINT_PERIOD": 2, "BASE_LR": 0.01, "STEPS": [100]},
        "TEST": {"IMS_PER_BATCH": 2},
    }


class Workspace:
    """Folder with a dataset and a config, on which commands run.

    Attributes:
        folder: the folder.
        dataset: content of the annotation file; `write` writes it.
        config: content of the YAML file; `write` writes it.
    """

    def __init__(self, folder: Path, config: dict) -> None:
        self.folder = folder
        self.config = json.loads(json.dumps(config))
        self.config["DATASETS"]["DATA_DIR"] = str(folder)
        self.config["OUTPUT_DIR"] = str(folder / "out")
        (folder / "images").mkdir()
        rng = np.random.default_rng(0)
        images, annotations = [], []
        for number in range(1, 6):
            name = f"{number}.png"
            Image.fromarray(rng.integers(0, 256, (64, 72, 3), dtype=np.uint8)).save(folder / "images" / name)
            images.append({"id": number, "file_name": name, "width": 72, "height": 64})
            box = [5 * number, 10, 30, 20]
            annotations.append(
                {
                    "id": number,
                    "image_id": number,
                    "category_id": 1 + number % 2,
                    "bbox": box,
                    "area": 600,
                    "iscrowd": 0,
                }
            )
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        self.dataset = {"images": images, "annotations": annotations, "categories": categories}

    @property
    def out(self) -> Path:
        return Path(self.config["OUTPUT_DIR"])

    def write(self) -> None:
        (self.folder / "tiny.json").write_text(json.dumps(self.dataset))
        (self.folder / "tiny.yaml").write_text(yaml.safe_dump(self.config))

    def start(
        self, tool: str, *words: str, launcher: tuple[str, ...] = (), gpus: str = "", host: str = "", fork: bool = True
    ) -> subprocess.Popen | ForkedCommand:
        """Start tools/TOOL or `fcos TOOL` with this config in the repository, with one thread per process.

        Args:
            tool: file name of the command, or a command of `fcos`.
            words: arguments of the command.
            launcher: words between Python and the tool.
            gpus: numbers of the GPUs that the command sees.
            host: network namespace of the command; its interface to other hosts has the same name.
            fork: start without an interpreter of its own, which takes seconds less; never on GPUs.
        """
        program = [f"tools/{tool}"] if tool.endswith(".py") else ["-m", "fcos_core", tool]
        command = [*launcher, *program, "--config-file", str(self.folder / "tiny.yaml"), *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": gpus}
        if host:
            environment["GLOO_SOCKET_IFNAME"] = host
        if fork and not gpus:
            return ForkedCommand(command, environment, ROOT, host)
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess:
        """Run a command like `start`, and wait for its end."""
        return finish([self.start(*words, **options)])

    def run_processes(self, count: int, *words: str, **options: Any) -> subprocess.CompletedProcess:
        """Run a command like `run` in `count` processes of one group, which a store connects as torchrun's does."""
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
        with pytest.MonkeyPatch.context() as environment:
            for name, value in {**group, "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
                environment.setenv(name, value)
            processes = []
            for rank in map(str, range(count)):
                environment.setenv("RANK", rank)
                environment.setenv("LOCAL_RANK", rank)
                processes.append(self.start(*words, **options))
        return finish(processes)


def finish(processes: list[subprocess.Popen | ForkedCommand]) -> subprocess.CompletedProcess:
    """Wait for the end of all; join what they print, and return the first exit status that is a failure's."""
    try:
        outputs, errors = zip(*(process.communicate(timeout=300) for process in processes), strict=True)
    finally:
        for process in processes:
            process.kill()
    status = next(filter(None, (process.returncode for process in processes)), 0)
    return subprocess.CompletedProcess(processes[0].args, status, "".join(outputs), "".join(errors))


@pytest.fixture(scope="session")
def make_workspace() -> Callable[[Path, dict], Workspace]:
    def make(folder: Path, config: dict) -> Workspace:
        made = Workspace(folder, config)
        made.write()
        return made

    return make


@pytest.fixture
def workspace(tmp_path, tiny_config, make_workspace) -> Workspace:
    return make_workspace(tmp_path, tiny_config)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_config, make_workspace) -> Workspace:
    """Make a workspace in which train_net.py has run; tests must not change it."""
    made = make_workspace(tmp_path_factory.mktemp("trained"), tiny_config)
    made.training = made.run("train_net.py", fork=False)
    assert made.training.returncode == 0, made.training.stderr
    return made
