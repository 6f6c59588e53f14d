"""Import and set-up on machines without compiled operators."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]

WITHOUT_EXTENSION = """
import sys, warnings
import torch
{hide}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fcos_core.layers._operators as operators
    from fcos_core.layers.nms import batched_nms
    from fcos_core.layers.sigmoid_focal_loss import SigmoidFocalLoss
    boxes, scores, groups, logits, targets = torch.load(sys.argv[1])
    kept = batched_nms(boxes, scores, groups, 0.5)
    logits.requires_grad_()
    loss = SigmoidFocalLoss(2.0, 0.25)
    if sys.argv[3] == "compile":
        loss = torch.compile(loss, fullgraph=True, backend="aot_eager")
    loss = loss(logits, targets)
    loss.backward()
texts = [str(w.message) for w in caught if "fcos_core" in str(w.message)]
torch.save((operators.COMPILED, texts, kept, loss.detach(), logits.grad), sys.argv[2])
"""
HIDDEN = 'sys.modules["fcos_core._C"] = None'
BROKEN = """
import importlib.abc
class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "fcos_core._C":
            raise ImportError("undefined symbol: _ZN2at4gone")
sys.meta_path.insert(0, Broken())
"""
# Stands for an extension that was built from a source without today's operators.
OLDER = 'sys.modules["fcos_core._C"] = type(sys)("fcos_core._C")'


def run(command, **environment):
    changed = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=changed, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("hide", "reason", "mode"),
    [
        (HIDDEN, "fcos_core._C halted", "compile"),
        (BROKEN, "undefined symbol: _ZN2at4gone", "eager"),
        (
            OLDER,
            "are older than its source and lack assign_boxes, nms_mask, sigmoid_focal_loss_sum, scale_gradient_;",
            "eager",
        ),
    ],
    ids=["absent", "broken", "older"],
)
def test_without_extension_one_warning_and_the_same_results(hide, reason, mode, tmp_path):
    from fcos_core.layers import SigmoidFocalLoss, batched_nms

    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(100, 2, generator=generator) * 30
    boxes = torch.cat([corner, corner + torch.rand(100, 2, generator=generator) * 30], 1)
    scores = torch.rand(100, generator=generator)
    groups = torch.randint(3, (100,), generator=generator)
    logits = torch.randn(20, 5, generator=generator, dtype=torch.float64)
    targets = torch.randint(-1, 6, (20,), generator=generator)
    torch.save((boxes, scores, groups, logits, targets), tmp_path / "in.pt")

    code = WITHOUT_EXTENSION.format(hide=hide)
    done = run([sys.executable, "-c", code, str(tmp_path / "in.pt"), str(tmp_path / "out.pt"), mode])
    assert done.returncode == 0, done.stderr
    compiled, warnings, kept, loss, grad = torch.load(tmp_path / "out.pt")

    assert compiled == (hide == OLDER)
    assert len(warnings) == 1
    assert "slower pure PyTorch ones serve" in warnings[0]
    assert "pip install --no-build-isolation -e ." in warnings[0]
    assert reason in warnings[0]
    assert kept.tolist() == batched_nms(boxes, scores, groups, 0.5).tolist()
    logits.requires_grad_()
    expected = SigmoidFocalLoss(2.0, 0.25)(logits, targets)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(grad, logits.grad, rtol=1e-12, atol=1e-14)


def build(folder, **environment):
    command = [sys.executable, "setup.py", "build_ext", "--build-temp", str(folder), "--build-lib", str(folder / "lib")]
    return run(command, **{"FORCE_CPU": "", "FORCE_CUDA": "", **environment})


def test_setup_without_compiler_warns_and_succeeds(tmp_path):
    done = build(tmp_path, FORCE_CPU="1", CC=str(tmp_path / "absent"), CXX=str(tmp_path / "absent"))
    assert done.returncode == 0, done.stderr
    assert "installed without compiled operators" in done.stderr
    assert not list(tmp_path.rglob("_C.*"))


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in compiler is a shell script around c++")
def test_setup_with_a_compile_error_fails(tmp_path):
    compiler = tmp_path / "c++"
    # This compiler answers questions about itself like the real one and rejects every source file.
    compiler.write_text(
        '#!/bin/sh\ncase " $* " in *" -c "*) echo "error: rejected" >&2; exit 1;; esac\nexec g++ "$@"\n'
    )
    compiler.chmod(0o755)
    done = build(tmp_path, FORCE_CPU="1", CXX=str(compiler))
    assert done.returncode != 0
    assert "error: rejected" in done.stdout + done.stderr
    assert not list(tmp_path.rglob("_C.*"))


def test_setup_forced_to_cuda_without_toolkit_is_an_error(tmp_path):
    done = build(tmp_path, FORCE_CUDA="1", CUDA_HOME=str(tmp_path / "absent"))
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].startswith("FORCE_CUDA=1 needs the CUDA toolkit and no nvcc was found")
