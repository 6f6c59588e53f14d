"""Installs fcos_core and compiles its operators (csrc/) into fcos_core._C.

CUDA kernels are compiled where a GPU and the CUDA toolkit are found. FORCE_CUDA=1 compiles them without a
GPU, FORCE_CPU=1 never does. CUDA_HOME names the toolkit, TORCH_CUDA_ARCH_LIST the GPU generations.
Without a C++ compiler the package installs all the same, and pure PyTorch operators serve.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import setuptools

try:
    import torch
except ImportError:
    sys.exit(
        "fcos_core compiles against the installed PyTorch and none was found: install torch first, "
        "then run `pip install --no-build-isolation -e .`."
    )

ROOT = Path(__file__).resolve().parent
FORCE_CUDA = os.environ.get("FORCE_CUDA") == "1"
FORCE_CPU = os.environ.get("FORCE_CPU") == "1"


def find_toolkit() -> str | None:
    """The CUDA toolkit's folder, asked of nvcc since the one on the PATH may be a script that calls it."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named or not shutil.which("nvcc"):
        return named
    steps = subprocess.run(["nvcc", "--dryrun", "x.cu"], capture_output=True, text=True).stderr
    top = re.search(r"^#\$ TOP=(.+)$", steps, re.MULTILINE)
    return os.path.realpath(top.group(1)) if top else None


if toolkit := find_toolkit():
    os.environ["CUDA_HOME"] = toolkit  # read by the next import
from torch.utils import cpp_extension  # noqa: E402


def nvcc_path() -> str | None:
    return cpp_extension.CUDA_HOME and shutil.which(os.path.join(cpp_extension.CUDA_HOME, "bin", "nvcc"))


def use_cuda() -> bool:
    if FORCE_CPU:
        return False
    if FORCE_CUDA:
        if not nvcc_path():
            sys.exit("FORCE_CUDA=1 needs the CUDA toolkit and no nvcc was found: install it or set CUDA_HOME.")
        if torch.version.cuda is None:
            sys.exit(f"FORCE_CUDA=1 needs a PyTorch built with CUDA, and torch {torch.__version__} is not.")
        return True
    return torch.cuda.is_available() and nvcc_path() is not None


def default_architectures() -> str:
    """Turing, Ampere (8.0 serves 8.x) and Hopper as far as this nvcc knows them, the last as PTX for later GPUs."""
    known = subprocess.check_output([nvcc_path(), "--list-gpu-arch"], text=True).split()
    wanted = ["7.5", "8.0", "9.0"]
    return ";".join(a for a in wanted if "compute_" + a.replace(".", "") in known) + "+PTX"


def operators() -> setuptools.Extension:
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*.cpp"))
    # no fused multiply-add: NMS compares with a threshold, and every device must round alike to decide alike
    # trapping math aside, since no trap is set and selections in a loop would not become vector instructions
    cxx_flags = [] if sys.platform == "win32" else ["-O3", "-ffp-contract=off", "-fno-trapping-math"]
    if not use_cuda():
        return cpp_extension.CppExtension("fcos_core._C", sources, extra_compile_args={"cxx": cxx_flags})
    sources += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*.cu"))
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", default_architectures())
    flags = {"cxx": cxx_flags, "nvcc": ["-O3", "-fmad=false"]}
    return cpp_extension.CUDAExtension("fcos_core._C", sources, extra_compile_args=flags)


class BuildOperators(cpp_extension.BuildExtension):
    """Compiles the operators, or without a compiler warns and leaves them out. A compile error is an error."""

    def run(self) -> None:
        compilers = [cpp_extension.get_cxx_compiler(), os.environ.get("CC") or ""]
        missing = [name for name in compilers if name and not shutil.which(shlex.split(name)[0])]
        if missing:
            if FORCE_CUDA:
                sys.exit(f"FORCE_CUDA=1 needs a C++ compiler and {missing[0]!r} was not found.")
            warnings.warn(
                f"No C++ compiler ({missing[0]!r} was not found): fcos_core is installed without compiled "
                "operators, slower pure PyTorch ones serve.",
                stacklevel=2,
            )
            self.extensions = []
        super().run()


class Develop(setuptools.Command):
    """`setup.py develop` since setuptools 80, whose own calls pip so that it would build against another torch."""

    description = "install the package in place"
    user_options = [("no-deps", "N", "do not install dependencies")]
    boolean_options = ["no-deps"]

    def initialize_options(self) -> None:
        self.no_deps = False

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        options = ["--no-build-isolation"] + ["--no-deps"] * bool(self.no_deps)
        subprocess.check_call([sys.executable, "-m", "pip", "install", *options, "-e", str(ROOT)])


commands = {"build_ext": BuildOperators}
if int(setuptools.__version__.split(".")[0]) >= 80:
    commands["develop"] = Develop

setuptools.setup(
    name="fcos_core",
    version="1.0.0",
    description="HRNet-FCOS: one-stage object detection on high-resolution networks",
    license="BSD-2-Clause",
    packages=setuptools.find_packages(include=["fcos_core", "fcos_core.*"]),
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.6",  # weights_only holds against hostile files from here on
        "torchvision",
        "yacs",
        "pycocotools",
        "tqdm",
        "numpy",
        "pillow",
        "matplotlib",
        "pyyaml",
    ],
    extras_require={"fast-eval": ["faster-coco-eval>=1.8"]},  # TEST.EVALUATOR "faster_coco_eval"
    ext_modules=[operators()],
    cmdclass=commands,
)
