"""Compile the operators in csrc/ into fcos_core._C; the metadata of the package is in pyproject.toml.

CUDA kernels are compiled if a GPU and the CUDA toolkit are found. FORCE_CUDA=1 compiles them without a GPU,
FORCE_CPU=1 leaves them out. CUDA_HOME names the toolkit, TORCH_CUDA_ARCH_LIST the GPU generations.
Without a C++ compiler the package is installed without operators, and fcos_core uses its PyTorch definitions.
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
        "fcos_core is compiled against the installed PyTorch, but PyTorch was not found: install torch first, "
        "then run `pip install --no-build-isolation -e .`."
    )

ROOT = Path(__file__).resolve().parent
FORCE_CUDA = os.environ.get("FORCE_CUDA") == "1"
FORCE_CPU = os.environ.get("FORCE_CPU") == "1"


def find_toolkit() -> str | None:
    """Return the folder of the CUDA toolkit, or None if there is no toolkit.

    nvcc itself prints the folder, because the nvcc on the PATH may be a script outside the toolkit.
    """
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named or not shutil.which("nvcc"):
        return named
    steps = subprocess.run(["nvcc", "--dryrun", "x.cu"], capture_output=True, text=True).stderr
    top = re.search(r"^#\$ TOP=(.+)$", steps, re.MULTILINE)
    return os.path.realpath(top.group(1)) if top else None


if toolkit := find_toolkit():
    os.environ["CUDA_HOME"] = toolkit  # the next import reads CUDA_HOME
from torch.utils import cpp_extension  # noqa: E402


def nvcc_path() -> str | None:
    """Return the path of nvcc, or None if there is no CUDA toolkit."""
    return cpp_extension.CUDA_HOME and shutil.which(os.path.join(cpp_extension.CUDA_HOME, "bin", "nvcc"))


def use_cuda() -> bool:
    """Return True if the CUDA kernels are to be compiled."""
    if FORCE_CPU:
        return False
    if FORCE_CUDA:
        if not nvcc_path():
            sys.exit("FORCE_CUDA=1 needs the CUDA toolkit and no nvcc was found: install the toolkit or set CUDA_HOME.")
        if torch.version.cuda is None:
            sys.exit(f"FORCE_CUDA=1 needs a PyTorch built with CUDA; torch {torch.__version__} is built without CUDA.")
        return True
    return torch.cuda.is_available() and nvcc_path() is not None


def default_architectures() -> str:
    """Return Turing, Ampere and Hopper as far as this nvcc knows them, in the format of TORCH_CUDA_ARCH_LIST.

    Code for 8.0 runs on every 8.x. The last architecture is also included as PTX, which later GPUs compile.
    """
    known = subprocess.check_output([nvcc_path(), "--list-gpu-arch"], text=True).split()
    wanted = ["7.5", "8.0", "9.0"]
    return ";".join(a for a in wanted if "compute_" + a.replace(".", "") in known) + "+PTX"


def operators() -> setuptools.Extension:
    """Return the extension module: C++ sources, and CUDA sources if `use_cuda()`."""
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*.cpp"))
    # -ffp-contract=off: NMS compares IoUs with a threshold, so every device must round alike to decide alike.
    # -fno-trapping-math: without it, the compiler does not vectorize loops that contain a selection.
    cxx_flags = [] if sys.platform == "win32" else ["-O3", "-ffp-contract=off", "-fno-trapping-math"]
    if not use_cuda():
        return cpp_extension.CppExtension("fcos_core._C", sources, extra_compile_args={"cxx": cxx_flags})
    sources += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*.cu"))
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", default_architectures())
    flags = {"cxx": cxx_flags, "nvcc": ["-O3", "-fmad=false"]}
    return cpp_extension.CUDAExtension("fcos_core._C", sources, extra_compile_args=flags)


class BuildOperators(cpp_extension.BuildExtension):
    """Compilation of the operators; without a compiler it warns and leaves them out. A compile error ends the build.

    Object files stay in build/, so that a wheel takes those of the installation in place: nothing is compiled twice.
    """

    def finalize_options(self) -> None:
        # Objects compiled against another PyTorch are not taken: the headers' dates do not tell them apart.
        self.build_temp = self.build_temp or str(
            ROOT / "build" / f"{sys.implementation.cache_tag}-torch{torch.__version__}"
        )
        super().finalize_options()

    def run(self) -> None:
        compilers = [cpp_extension.get_cxx_compiler(), os.environ.get("CC") or ""]
        missing = [name for name in compilers if name and not shutil.which(shlex.split(name)[0])]
        if missing:
            if FORCE_CUDA:
                sys.exit(f"FORCE_CUDA=1 needs a C++ compiler and {missing[0]!r} was not found.")
            warnings.warn(
                f"No C++ compiler ({missing[0]!r} was not found): fcos_core is installed without compiled "
                "operators and uses slower PyTorch definitions instead.",
                stacklevel=2,
            )
            self.extensions = []
        super().run()


class Develop(setuptools.Command):
    """Replacement for the `develop` command of setuptools 80 and later, which builds in an isolated environment.

    In that environment pip would install another PyTorch and compile the operators against it.
    """

    description = "install the package in place"
    user_options = [("no-deps", "N", "do not install dependencies")]
    boolean_options = ["no-deps"]

    def initialize_options(self) -> None:
        self.no_deps = False

    def finalize_options(self) -> None:
        """Do nothing; setuptools requires the method."""

    def run(self) -> None:
        options = ["--no-build-isolation"] + ["--no-deps"] * bool(self.no_deps)
        subprocess.check_call([sys.executable, "-m", "pip", "install", *options, "-e", str(ROOT)])


commands = {"build_ext": BuildOperators}
if int(setuptools.__version__.split(".")[0]) >= 80:
    commands["develop"] = Develop

# The licence stands here because setuptools before 77 refuses an SPDX name in pyproject.toml.
setuptools.setup(license="BSD-2-Clause", ext_modules=[operators()], cmdclass=commands)
