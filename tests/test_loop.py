"""The loop: schedule, optimizer, average, and a resumed run that equals the unbroken one."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from heph_vl.errors import HephError
from heph_vl.loop import EMA, LoopConfig, make_optimizer
from heph_vl.optim import lr_factor
from heph_vl.run import Run
from tests.tiny_run import TinyConfig, differences, state, train


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return state(train(TinyConfig(root=str(tmp_path_factory.mktemp("unbroken")))))


def test_learning_rate_values() -> None:
    factors = [lr_factor(step, steps=110, warmup_steps=10) for step in range(111)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1
    assert factors[60] == pytest.approx(0.5)
    assert factors[35] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert factors[110] == pytest.approx(0, abs=1e-12)
    assert lr_factor(0, steps=4, warmup_steps=0) == 1


def test_norms_biases_and_scales_are_not_decayed() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.norm = nn.LayerNorm(4)
            self.logit_scale = nn.Parameter(torch.tensor(2.3))
            self.frozen = nn.Linear(4, 4).requires_grad_(False)

    model = Model()
    optimizer = make_optimizer(model, 0.1, 0.2)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decay == {
        id(model.conv.weight): 0.2,
        id(model.conv.bias): 0.0,
        id(model.norm.weight): 0.0,
        id(model.norm.bias): 0.0,
        id(model.logit_scale): 0.0,
    }
    assert optimizer.defaults["fused"]


def test_settings_out_of_range_are_named() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(HephError, match=r"^optimizer.lr: -1"):
        make_optimizer(model, -1.0, 0.0)
    with pytest.raises(HephError, match=r"^optimizer.weight_decay: nan"):
        make_optimizer(model, 0.1, math.nan)
    with pytest.raises(HephError, match=r"^optimizer.ema_decay: 1.5"):
        EMA(model, 1.5)


def test_average_follows_its_formula() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema = EMA(model, decay=0.25)
    expected = 1.0
    for n, weight in enumerate([5.0, -2.0, 7.0], start=1):
        with torch.no_grad():
            model.weight.fill_(weight)
        ema(model, n)
        decay = min(0.25, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * weight
    assert float(ema.model.weight) == pytest.approx(expected)
    assert not ema.model.training
    assert not ema.model.weight.requires_grad


def test_average_copies_statistics_and_reloads() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = EMA(model, decay=0.9)
    model(torch.randn(8, 2))
    ema(model, 1)
    assert torch.equal(ema.model[1].running_mean, model[1].running_mean)
    other = EMA(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), decay=0.9)
    other.load_state_dict(ema.state_dict())
    assert other.updates == 1
    assert differences(dict(other.model.state_dict()), dict(ema.model.state_dict())) == []


def test_training_learns_and_logs(tmp_path: Path) -> None:
    loop = LoopConfig(steps=200, warmup_steps=5, log_every=20, checkpoint_every=0)
    run = train(TinyConfig(root=str(tmp_path), loop=loop, dropout=0.0))
    lines = run.metrics()
    assert [line["step"] for line in lines] == list(range(20, 201, 20))
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert all(0 <= line["data_wait"] <= 1 and line["samples_per_s"] > 0 for line in lines)
    assert lines[0]["lr"] == pytest.approx(0.02 * lr_factor(19, steps=200, warmup_steps=5))
    assert [p.name for p in (run.folder / "checkpoints").iterdir()] == ["step_200"]


def test_a_line_is_the_mean_of_its_steps(tmp_path: Path, unbroken: dict[str, Any]) -> None:
    loop = dataclasses.replace(TinyConfig().loop, log_every=1)
    lines = train(TinyConfig(root=str(tmp_path), loop=loop)).metrics()
    for end, first in ((5, 1), (10, 6), (12, 11)):
        for key in ("loss", "error", "grad_norm"):
            mean = np.mean([line[key] for line in lines[first - 1 : end]])
            assert unbroken[f"metrics.{end}"][key] == pytest.approx(mean, rel=1e-6)
    assert set(unbroken["metrics.8"]) == {"step", "val/error"}
    assert [line["step"] for line in lines if "val/error" in line] == [4, 8, 12]


# 7 and 11 lie inside an epoch, between two log lines; 4 is a step with an evaluation.
@pytest.mark.parametrize("at", [1, 4, 7, 11])
def test_interrupt_and_resume_equal_the_unbroken_run(
    at: int, tmp_path: Path, unbroken: dict[str, Any]
) -> None:
    config = TinyConfig(root=str(tmp_path), event="interrupt", at=at)
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {at}, saved; "):
        train(config)
    run = Run(tmp_path / "tiny" / "tiny")
    latest = run.latest()
    assert latest is not None
    assert latest.name == f"step_{at}"
    assert all(line["step"] <= at for line in run.metrics())
    resumed = train(config, resume=True)
    assert differences(state(resumed), unbroken) == []


def test_resume_with_workers_equals_the_unbroken_run(
    tmp_path: Path, unbroken: dict[str, Any]
) -> None:
    config = TinyConfig(root=str(tmp_path), workers=2, event="interrupt", at=7)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert differences(state(train(config, resume=True)), unbroken) == []


def test_resume_from_a_periodic_checkpoint_drops_later_lines(
    tmp_path: Path, unbroken: dict[str, Any]
) -> None:
    config = TinyConfig(root=str(tmp_path), event="nan", at=11)
    with pytest.raises(HephError, match="step 11: loss is nan"):
        train(config)
    run = Run(tmp_path / "tiny" / "tiny")
    latest = run.latest()
    assert latest is not None
    assert latest.name == "step_9"
    assert run.metrics()[-1]["step"] == 10  # logged after the checkpoint
    assert differences(state(train(config, resume=True)), unbroken) == []


def test_gradient_accumulation_equals_the_larger_batch(tmp_path: Path) -> None:
    loop = LoopConfig(steps=6, warmup_steps=1, log_every=1)
    whole = train(TinyConfig(name="whole", root=str(tmp_path), dropout=0.0, loop=loop))
    loop = dataclasses.replace(loop, gradient_accumulation=2)
    parts = train(
        TinyConfig(name="parts", root=str(tmp_path), dropout=0.0, loop=loop, batch_size=4)
    )
    for one, two in zip(whole.metrics(), parts.metrics(), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-5)
    one, two = state(whole), state(parts)
    for name in (name for name in one if name.startswith("model.")):
        assert torch.allclose(one[name], two[name], atol=1e-6)


def test_nothing_is_trained_twice(tmp_path: Path, unbroken: dict[str, Any]) -> None:
    config = TinyConfig(root=str(tmp_path))
    run = train(config)
    (run.folder / "results.json").unlink()  # as if the final evaluation had been killed
    assert differences(state(train(config, resume=True)), unbroken) == []


@pytest.mark.parametrize("name", ["steps", "log_every", "keep_checkpoints"])
def test_settings_below_their_least_are_refused(name: str) -> None:
    with pytest.raises(HephError, match=f"loop.{name}: 0 is too small; at least 1"):
        LoopConfig(**{name: 0})
