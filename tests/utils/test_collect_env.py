import platform
import time

import torch

from fcos_core.utils import collect_env


def test_report_is_short_and_quick():
    started = time.perf_counter()
    report = collect_env.collect_env_info()
    assert time.perf_counter() - started < 5
    rows = dict(line.split("  ", 1) for line in report.splitlines())
    assert len(rows) <= 15
    assert rows["Python"].strip().startswith(platform.python_version())
    assert rows["PyTorch"].strip() == torch.__version__
    assert rows["fcos_core._C"].strip() in ("compiled", "not compiled")


def test_absent_things_are_said_to_be_absent(monkeypatch):
    monkeypatch.setattr(collect_env, "_PACKAGES", ("no-such-package",))
    monkeypatch.setenv("PATH", "")
    report = collect_env.collect_env_info()
    assert "not installed" in report
    assert report.splitlines()[-1].split("  ")[-1].strip() in ("unknown", "not a checkout")
