"""Describe the environment of a run: machine, libraries and code."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from fcos_core.utils.text import without_secrets

_PACKAGES = ("torchvision", "numpy", "pycocotools", "pillow", "yacs", "tensorboard")


def environment() -> dict[str, str]:
    """Collect Python, system, CPU, PyTorch, CUDA, GPUs and driver, libraries, compiled operators and git commit."""
    # platform.processor() returns no name on most Linux systems.
    cpu = _search("/proc/cpuinfo", r"^model name\s*:\s*(.+)$", platform.machine())
    return {
        "Python": f"{platform.python_version()} ({sys.executable})",
        "System": platform.platform(),
        "CPU": f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used by PyTorch",
        "PyTorch": torch.__version__,
        "CUDA": _cuda(),
        "GPUs": _gpus(),
        **{name: _version(name) for name in _PACKAGES},
        "fcos_core._C": "compiled" if importlib.util.find_spec("fcos_core._C") else "not compiled",
        "Command": without_secrets(shlex.join([sys.executable, *sys.argv])),
        "git commit": _git_commit(),
    }


def collect_env_info() -> str:
    """Format `environment` as a dozen lines for the log."""
    rows = environment()
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def _search(path: str, pattern: str, default: str) -> str:
    file = Path(path)
    found = re.search(pattern, file.read_text(), re.MULTILINE) if file.is_file() else None
    return found[1] if found else default


def _cuda() -> str:
    if torch.version.cuda is None:
        return "PyTorch is built without CUDA"
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    usable = f"usable, cuDNN {cudnn}" if torch.cuda.is_available() else "no usable device"
    return f"PyTorch is built for {torch.version.cuda}; {usable}"


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none"
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    driver = _search("/proc/driver/nvidia/version", r"^NVRM version:.*?\s(\d+\.[\d.]+)", "unknown")
    return f"{names}; driver {driver}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git_commit() -> str:
    root = Path(__file__).resolve().parents[2]
    # An installed package may lie inside the checkout of another project, whose commit says nothing.
    if not (root / ".git").exists():
        return "not a checkout"
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
