"""What changed in the config since a checkpoint was saved."""

import logging

import pytest

from fcos_core.config import cfg
from fcos_core.engine.config_changes import find_changes, log_changes


def config(*opts):
    clone = cfg.clone()
    clone.merge_from_list(opts)
    return clone


def test_every_change_is_listed_in_one_block(caplog):
    former = config("SOLVER.WEIGHT_DECAY", 0.5, "SOLVER.STEPS", "(3, 5)", "SOLVER.EMA_DECAY", 0.9)
    with caplog.at_level(logging.INFO):
        log_changes(config("MODEL.WEIGHT", "a\x1b", "SOLVER.EMA_DECAY", 0.9), former.dump(), "model_final.pth")
    (record,) = caplog.records
    first, *rows = record.getMessage().splitlines()
    assert first == "The config has changed since model_final.pth was saved; the new values hold:"
    assert rows == [
        r"  MODEL.WEIGHT: '' -> 'a\x1b' (not read: the weights come from the checkpoint)",
        "  SOLVER.STEPS: [3, 5] -> [30000]",
        "  SOLVER.WEIGHT_DECAY: 0.5 -> 0.0005",
    ]


def test_nothing_is_said_about_the_same_config(caplog):
    # The values of two keys may be one object, which YAML writes as an alias.
    same = config("DATASETS.TRAIN", ("a",), "DATASETS.TEST", ("a",))
    same.DATASETS.TEST = same.DATASETS.TRAIN
    assert "&id" in same.dump()
    log_changes(same, same.dump(), "model_final.pth")
    assert not caplog.records


def test_one_process_of_several_says_it(caplog, monkeypatch):
    monkeypatch.setattr("fcos_core.engine.config_changes.comm.is_main_process", lambda: False)
    log_changes(config("SEED", 7), cfg.dump(), "model_final.pth")
    assert not caplog.records


def test_keys_that_one_version_alone_knows():
    former = "SOLVER: {GAMMA: 0.1, OLD: 3}\n"
    assert list(find_changes(former, "SOLVER: {GAMMA: 0.1, NEW: x}\n")) == [
        ("SOLVER.NEW", "(not set)", "'x'"),
        ("SOLVER.OLD", "3", "(not set)"),
    ]


def test_an_old_checkpoint_says_nothing_about_its_config(caplog):
    with caplog.at_level(logging.INFO):
        log_changes(cfg, None, "model_final.pth")
    assert [record.getMessage() for record in caplog.records] == [
        "model_final.pth does not hold the config of its run: what has changed since then is not known."
    ]


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


@pytest.mark.parametrize(
    "text", ["- a list", "{", "a: &a [*a]", LAUGHS, "[" * 3000, "a: " + "9" * 5000], ids=lambda text: text[:12]
)
def test_a_text_that_is_no_config(caplog, text):
    log_changes(cfg, text, "model_final.pth")
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "The config in model_final.pth cannot be read"
    ]
