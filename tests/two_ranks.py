"""All checks that need two processes; `tests/test_two_ranks.py` starts them once, by torchrun.

A check takes the accelerator and a folder that both ranks share, and asserts. To add one, write a
function and list it in CHECKS. Both ranks run the checks in order; the first failure ends the
session, since a rank that has failed no longer answers the other.
"""

import contextlib
import copy
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel

from heph_vl.errors import HephError
from heph_vl.loop import LoopConfig
from heph_vl.models import autoencoder, captioner, generator, retriever
from heph_vl.models.autoencoder import PhaseAutoencoder, autoencoder_loss
from heph_vl.models.captioner import captioner_loss
from heph_vl.models.gather import gather_objects, rank_and_world
from heph_vl.models.generator import generator_loss
from heph_vl.models.retriever import retriever_loss
from heph_vl.run import AcceleratorConfig, Run, make_accelerator
from tests import tiny_captioner, tiny_generator
from tests.tiny_retriever import drop_text, make, make_batch
from tests.tiny_run import TinyConfig, differences, state, train

Check = Callable[[Accelerator, Path], None]

# Steps 1 to 9 with an interrupt in between; a line each step, so that the ranks agree at once.
LOOP = LoopConfig(steps=9, warmup_steps=3, log_every=1, evaluate_every=0, checkpoint_every=4)
ALONE = TinyConfig(name="alone", dropout=0.0, loop=LOOP)  # trained by the test, in one process


def training_equals_one_process(accelerator: Accelerator, folder: Path) -> None:
    together = train(replace(ALONE, name="together", root=str(folder)))
    alone = Run(folder / "tiny" / "alone")
    for one, two in zip(alone.metrics(), together.metrics(), strict=True):
        assert one["step"] == two["step"]
        assert one["lr"] == two["lr"]
        for key in ("loss", "error", "grad_norm"):
            assert two[key] == pytest.approx(one[key], rel=1e-5)
    one, two = state(alone), state(together)
    assert (folder / "tiny/together/checkpoints/step_9/random_states_1.pkl").is_file()
    names = [name for name in one if name.startswith(("model.", "custom_checkpoint_1.pkl.model"))]
    assert len(names) == 12
    for name in names:
        assert torch.allclose(one[name], two[name], rtol=0, atol=1e-6), name


def resume_equals_the_unbroken_run(accelerator: Accelerator, folder: Path) -> None:
    config = TinyConfig(name="unbroken", root=str(folder), loop=LOOP, workers=1)
    unbroken = train(config)
    # One rank hears of the interrupt; both stop at the same step.
    broken = replace(config, name="broken", event="interrupt", at=6, rank=1)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 6"):
        train(broken)
    assert differences(state(train(broken, resume=True)), state(unbroken)) == []


def a_loss_that_is_not_finite_on_one_rank_stops_both(
    accelerator: Accelerator, folder: Path
) -> None:
    config = TinyConfig(name="nan", root=str(folder), loop=LOOP, event="nan", at=6, rank=1)
    with pytest.raises(HephError, match="step 6: loss is nan"):
        train(config)
    latest = Run(folder / "tiny" / "nan").latest()
    assert latest is not None
    assert latest.name == "step_4"


def a_batch_that_cannot_be_shared_is_refused(accelerator: Accelerator, folder: Path) -> None:
    with pytest.raises(HephError, match="7 cannot be shared by 2 processes"):
        train(TinyConfig(name="odd", root=str(folder), batch_size=7))


def retriever_loss_equals_one_process(accelerator: Accelerator, folder: Path) -> None:
    """Facts repeat over ranks, one rank has fewer images, empty texts, and larger ones."""
    for kind in ("entailment", "diagonal", "sigmoid", "soft"):
        one_retriever_loss(accelerator, kind)


def one_retriever_loss(accelerator: Accelerator, kind: str) -> None:
    numbers = [0, 3, 0, 18, 5, 3, 7]
    batch = make_batch(numbers, side=96)
    drop_text(batch, 1)
    drop_text(batch, 5)
    batch["size"][:4] = 64
    own = slice(0, 4) if accelerator.process_index == 0 else slice(4, 7)
    local = {name: rows[own] for name, rows in batch.items()}
    if accelerator.process_index == 0:  # canvases, so numbers of tokens, differ between ranks
        local |= {k: local[k][..., :64, :64] for k in ("pixel_values", "valid", "mask")}
    alone = make(loss=kind)
    alone.weigh_facts(batch["scene_atoms"], batch["patterns"])
    with torch.no_grad():
        for parameter in alone.parameters():  # norms that start at 0 would hide gradients
            parameter.add_(0.05 * torch.randn_like(parameter))
    together = DistributedDataParallel(copy.deepcopy(alone))
    loss, logs = retriever_loss(together, local)
    loss.backward()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(retriever, "gather_rows", lambda *rows: rows)
        expected, expected_logs = retriever_loss(alone, batch)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6), kind
    for name, value in expected_logs.items():
        assert float(logs[name]) == pytest.approx(float(value), abs=1e-6), name
    gradients = dict(together.module.named_parameters())
    for name, parameter in alone.named_parameters():
        assert parameter.grad is not None, name
        difference = (gradients[name].grad - parameter.grad).norm()
        # Next to the loss; float32 sums of the backbone's convolutions add their own rounding.
        near = "encoder" not in name
        assert difference <= (1e-6 if near else 1e-5) * (1 + parameter.grad.norm()), name


def captioner_loss_equals_one_process(accelerator: Accelerator, folder: Path) -> None:
    """Ranks have other numbers of images and of pieces, and one text is empty."""
    batch = make_batch([0, 3, 18, 5, 7])
    batch["input_ids"][1, 3:] = 3
    batch["attention_mask"] = (batch["input_ids"] != 3).long()
    drop_text(batch, 4)
    own = slice(0, 3) if accelerator.process_index == 0 else slice(3, 5)
    alone = tiny_captioner.make(dropout=0.0)
    together = DistributedDataParallel(copy.deepcopy(alone))
    loss, logs = captioner_loss(together, {name: rows[own] for name, rows in batch.items()})
    loss.backward()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(captioner, "gather_rows", lambda *rows: rows)
        expected, expected_logs = captioner_loss(alone, batch)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    for name, value in expected_logs.items():
        assert float(logs[name]) == pytest.approx(float(value), abs=1e-6), name
    gradients = dict(together.module.named_parameters())
    for name, parameter in alone.named_parameters():
        assert parameter.grad is not None, name
        difference = (gradients[name].grad - parameter.grad).norm()
        assert difference <= 1e-5 * (1 + parameter.grad.norm()), name


@contextlib.contextmanager
def drawn(rows: slice) -> Iterator[None]:
    """Random numbers are those of these rows of one draw for the whole batch."""

    def of_rows(draw: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def some(first: Any, **_: Any) -> torch.Tensor:
            shape = first.shape[1:] if isinstance(first, torch.Tensor) else ()
            return draw(5, *shape, generator=torch.Generator().manual_seed(7))[rows]

        return some

    with pytest.MonkeyPatch.context() as monkeypatch:
        normal, even = of_rows(torch.randn), of_rows(torch.rand)
        monkeypatch.setattr(torch, "randn_like", normal)
        monkeypatch.setattr(torch, "rand", even)
        monkeypatch.setattr(generator, "_logit_normal", even)
        yield


def same_loss(module: Any, loss_fn: Any, alone: torch.nn.Module, batch: dict[str, Any]) -> None:
    """A loss over ranks of 3 and 2 images, its logs and gradients, equal those of one process."""
    own = slice(0, 3) if rank_and_world()[0] == 0 else slice(3, 5)
    together = DistributedDataParallel(copy.deepcopy(alone))
    with drawn(own):
        loss, logs = loss_fn(together, {name: rows[own] for name, rows in batch.items()})
    loss.backward()
    with pytest.MonkeyPatch.context() as monkeypatch, drawn(slice(0, 5)):
        monkeypatch.setattr(module, "gather_rows", lambda *rows: rows)
        expected, expected_logs = loss_fn(alone, batch)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    if module is autoencoder:  # the generator logs a rank's own share of texts left out
        for name, value in expected_logs.items():
            assert float(logs[name]) == pytest.approx(float(value), abs=1e-6), name
    gradients = dict(together.module.named_parameters())
    for name, parameter in alone.named_parameters():
        difference = (gradients[name].grad - parameter.grad).norm()
        assert difference <= 1e-5 * (1 + parameter.grad.norm()), name


def autoencoder_loss_equals_one_process(accelerator: Accelerator, folder: Path) -> None:
    """Ranks have other numbers of images and of pixels with data."""
    torch.manual_seed(0)
    batch = tiny_generator.make_images(5)
    batch["valid"][4, :, 2:] = False
    same_loss(autoencoder, autoencoder_loss, PhaseAutoencoder(tiny_generator.AUTOENCODER), batch)


def generator_loss_equals_one_process(accelerator: Accelerator, folder: Path) -> None:
    """Ranks have other numbers of images, and some texts are left out."""
    frozen = tiny_generator.frozen(caption_dropout=0.5)
    batch = frozen.prepare(tiny_generator.make_batch(tiny_generator.CAPTIONS[:5]))
    loss = partial(generator_loss, frozen=frozen)
    same_loss(generator, loss, tiny_generator.make().unet, batch)


def objects_come_from_all_ranks_in_order(accelerator: Accelerator, folder: Path) -> None:
    rank = accelerator.process_index
    assert rank_and_world() == (rank, 2)
    assert gather_objects({"rank": rank, "own": [rank] * rank}) == [
        {"rank": 0, "own": []},
        {"rank": 1, "own": [1]},
    ]


CHECKS: list[Check] = [
    training_equals_one_process,
    resume_equals_the_unbroken_run,
    a_loss_that_is_not_finite_on_one_rank_stops_both,
    a_batch_that_cannot_be_shared_is_refused,
    retriever_loss_equals_one_process,
    captioner_loss_equals_one_process,
    autoencoder_loss_equals_one_process,
    generator_loss_equals_one_process,
    objects_come_from_all_ranks_in_order,
]


def main(folder: Path) -> None:
    """Run all checks; each rank writes {check: "ok" or traceback} to `folder`."""
    accelerator = make_accelerator(AcceleratorConfig())
    assert accelerator.num_processes == 2
    report: dict[str, str] = {}
    for check in CHECKS:
        try:
            check(accelerator, folder)
            report[check.__name__] = "ok"
        except BaseException:
            report[check.__name__] = traceback.format_exc()
        path = folder / f"rank_{accelerator.process_index}.json"
        path.write_text(json.dumps(report))
        if report[check.__name__] != "ok":
            os._exit(1)  # torchrun then ends the rank that may be waiting for this one
    with contextlib.suppress(RuntimeError):
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
