"""The command `fcos`."""

import importlib
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fcos_core import __main__ as fcos
from fcos_core.commands import zoo
from fcos_core.weights.zoo import ZOO

ROOT = Path(__file__).resolve().parents[1]


def call(*words):
    """Run `fcos` in a new interpreter; let it print the names of its modules at the end."""
    script = (
        "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules)); import fcos_core.__main__ as m"
    )
    command = [sys.executable, "-c", f"{script}; sys.argv = ['fcos', *sys.argv[1:]]; m.main()", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_help_names_every_command_at_once():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = call("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    for name, (purpose, example) in fcos.COMMANDS.items():
        assert re.search(rf"^  {name} +{purpose}\n +fcos {name} {re.escape(example)}".rstrip(), result.stdout, re.M)
    assert result.stdout.splitlines()[-1] == "False"  # without PyTorch, whose import takes seconds
    # Seconds of the processor: 0.1 were measured. The time on the clock depends on what else the machine does.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


def test_a_wrong_name_is_told_the_nearest(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["fcos", "tran\x1b[2J"])
    with pytest.raises(SystemExit) as caught:
        fcos.main()
    assert caught.value.code == 2
    assert (
        capsys.readouterr().err.splitlines()[-1].endswith(r"there is no command 'tran\x1b[2J'; the nearest is 'train'")
    )


@pytest.mark.parametrize("name", fcos.COMMANDS)
def test_help_of_a_command_has_an_example(name, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["fcos", name, "--help"])
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(f"fcos_core.commands.{name}").main(["--help"])
    assert caught.value.code == 0
    words = capsys.readouterr().out
    assert words.startswith(f"usage: fcos {name} ")
    assert f"  fcos {name}" in words.partition("example")[2]


def test_zoo_lists_every_model_with_its_config(capsys):
    zoo.main([])
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:-1]}
    assert rows.keys() == ZOO.keys()
    assert rows["mmdet_fcos_hrnetv2p_w32_ms_2x"] == ["41.9", "configs/zoo/mmdet_fcos_hrnetv2p_w32.yaml"]
    assert all((ROOT / config).is_file() for _, config in rows.values() if config != "-")


def test_zoo_tells_how_to_use_a_model(capsys):
    zoo.main(["zoo://fcos_R_50_FPN_1x"])
    words = "--config-file configs/zoo/fcos_R_50_FPN_1x.yaml MODEL.WEIGHT zoo://fcos_R_50_FPN_1x"
    assert f"fcos test {words}\n" in capsys.readouterr().out
    zoo.main(["timm_hrnet_w18.ms_in1k"])
    assert "fcos train --config-file FILE.yaml MODEL.WEIGHT zoo://timm_hrnet_w18.ms_in1k\n" in capsys.readouterr().out
