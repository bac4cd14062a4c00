"""MoCo: no shortcut by batch norm, no negatives of the same frame, a key encoder that follows."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from heph_vl.errors import HephError
from heph_vl.models import moco
from heph_vl.models.encoder import EncoderConfig
from heph_vl.models.moco import MoCo, MoCoConfig, Momentum, moco_loss
from tests.conftest import REPO

CONFIG = MoCoConfig(
    encoder=EncoderConfig(
        backbone="test_resnet", dim=32, tile_size=32, tile_overlap=0, num_latents=4, num_heads=2
    ),
    dim=16,
    hidden_dim=32,
    queue_size=24,
    momentum=0.9,
    sub_batches=4,
)
GROUP_NORM = replace(CONFIG, encoder=replace(CONFIG.encoder, norm="group"))


def make(config=CONFIG):
    torch.manual_seed(0)
    return MoCo(config).train()


def make_images(count, seed):
    phase = 3 * torch.randn(count, 32, 32, generator=torch.Generator().manual_seed(seed))
    return {
        "pixel_values": torch.stack([phase.cos(), phase.sin(), torch.ones_like(phase)], dim=1),
        "valid": torch.ones(count, 32, 32, dtype=torch.bool),
        "size": torch.tensor([[32, 32]]).repeat(count, 1),
    }


def make_batch(count=16, seed=0, frames=None):
    return {
        "query": make_images(count, seed),
        "key": make_images(count, seed + 100),
        "frame": torch.arange(count) % 5 if frames is None else torch.tensor(frames),
        "image": torch.arange(count) + 1000 * seed,
    }


def seen_by(model, batch, view):
    """(B, B) bool: whether the embedding of row i depends on the image of row j."""
    images = batch[view]["pixel_values"]
    name = "query" if view == "query" else "key"
    reference = model(batch)[name].detach()
    found = torch.zeros(len(images), len(images), dtype=torch.bool)
    for j in range(len(images)):
        changed = images.clone()
        changed[j] = changed[j].flip(-1) * torch.tensor([1.0, -1.0, 1.0])[:, None, None]
        out = model({**batch, view: {**batch[view], "pixel_values": changed}})[name]
        found[:, j] = (out.detach() - reference).abs().amax(1) > 1e-5
    return found


def test_a_key_and_its_query_share_no_statistics():
    model, batch = make(), make_batch()
    with torch.no_grad():
        queries, keys = seen_by(model, batch, "query"), seen_by(model, batch, "key")
    assert (queries.sum(1) == 4).all()  # batch norm mixes each sub-batch of 16 / 4
    assert (keys.sum(1) == 4).all()
    torch.testing.assert_close(queries & keys, torch.eye(16, dtype=torch.bool))


def test_group_norm_mixes_no_images():
    model, batch = make(GROUP_NORM), make_batch(6)
    assert model.num_parts == 1
    with torch.no_grad():
        assert torch.equal(seen_by(model, batch, "key"), torch.eye(6, dtype=torch.bool))


def test_batch_norm_without_sub_batches_is_refused():
    with pytest.raises(HephError, match=r"model.sub_batches: 1: batch norms would show"):
        make(replace(CONFIG, sub_batches=1))


def test_embeddings_come_back_in_order():
    """Without statistics, sub-batches change nothing."""
    model = make().eval()
    batch = make_batch(10)
    out = model(batch)
    pooled = model.encoder(**batch["query"]).pooled
    expected = torch.nn.functional.normalize(model.projection(pooled), dim=1)
    torch.testing.assert_close(out["query"], expected, atol=1e-5, rtol=0)
    pooled = model.key_encoder(**batch["key"]).pooled
    expected = torch.nn.functional.normalize(model.key_projection(pooled), dim=1)
    torch.testing.assert_close(out["key"], expected, atol=1e-5, rtol=0)


def fixed_model(monkeypatch, config, queries, keys):
    model = make(config)
    monkeypatch.setattr(
        model, "forward", lambda batch: {"query": queries, "key": keys}, raising=True
    )
    return model


def test_keys_of_the_same_frame_are_never_negatives(monkeypatch):
    """The loss against the formula, written out for one query."""
    torch.manual_seed(1)
    unit = [torch.nn.functional.normalize(torch.randn(4, 16), dim=1) for _ in range(3)]
    model = fixed_model(monkeypatch, CONFIG, unit[0], unit[1])
    # Two keys of earlier steps: frame 0 on another date, and frame 7.
    model.enqueue(unit[2][:2], torch.tensor([0, 7]), torch.tensor([90, 91]))
    batch = make_batch(4, frames=[0, 0, 2, 3])
    loss, logs = moco_loss(model, batch)
    spared_by = {0: [2, 3, 5], 1: [2, 3, 5], 2: [0, 1, 3, 4, 5], 3: [0, 1, 2, 4, 5]}
    known = torch.cat([unit[1], unit[2][:2]])
    expected, hits = 0.0, 0
    for i, others in spared_by.items():
        own = (unit[0][i] @ unit[1][i] / CONFIG.temperature).exp()
        rest = (unit[0][i] @ known[others].T / CONFIG.temperature).exp()
        expected -= torch.log(own / (own + rest.sum())) / 4
        hits += bool((own > rest).all())
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert logs["top1"].item() == pytest.approx(hits / 4)
    assert logs["negatives"].item() == pytest.approx((3 + 3 + 5 + 5) / 4)
    assert logs["alignment"].item() == pytest.approx((unit[0] - unit[1]).square().sum(1).mean())


def test_without_frames_only_the_own_image_is_spared(monkeypatch):
    unit = torch.nn.functional.normalize(torch.randn(2, 4, 16), dim=2)
    model = fixed_model(monkeypatch, replace(CONFIG, never_negative="image"), unit[0], unit[1])
    _, logs = moco_loss(model, make_batch(4, frames=[0, 0, 0, 0]))
    assert logs["negatives"].item() == 3


def test_a_frame_alone_gives_no_loss_and_no_gradient():
    model = make(GROUP_NORM)
    loss, _ = moco_loss(model, make_batch(4, frames=[0, 0, 0, 0]))
    loss.backward()
    assert loss.item() == 0
    assert all(not p.grad.any() for p in model.encoder.parameters() if p.grad is not None)


def test_the_queue_forgets_the_oldest():
    model = make()
    for step in range(3):  # 3 x 10 keys in 24 places
        keys = torch.full((10, 16), float(step))
        places = model.enqueue(keys, torch.full((10,), step), torch.arange(10) + 10 * step)
    assert places.tolist() == [20, 21, 22, 23, 0, 1, 2, 3, 4, 5]
    assert model.queue_frames.tolist() == [2] * 6 + [0] * 4 + [1] * 10 + [2] * 4
    assert model.queue[:, 0].long().tolist() == model.queue_frames.tolist()
    assert int(model.queue_end) == 6
    with pytest.raises(HephError, match=r"model.queue_size: 24, but a batch has 25 keys"):
        model.enqueue(torch.zeros(25, 16), torch.zeros(25).long(), torch.zeros(25).long())


def test_every_learning_weight_gets_a_gradient_and_no_key_weight_does():
    # A weight without one would stop DistributedDataParallel.
    model = make()
    loss, _ = moco_loss(model, make_batch())
    loss.backward()
    for name, parameter in model.named_parameters():
        is_key = name.startswith("key_")
        assert parameter.requires_grad != is_key, name
        assert (parameter.grad is None) == is_key, name


def test_the_key_encoder_follows():
    model, follow = make(), Momentum(0.9)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(1.0)
    before = copy.deepcopy(model.key_encoder)
    follow(model, 1)
    pairs = zip(before.parameters(), model.key_encoder.parameters(), strict=True)
    for old, new in pairs:
        torch.testing.assert_close(new - old, torch.full_like(old, 0.1), atol=1e-5, rtol=1e-4)
    again = Momentum(0.9)
    again.load_state_dict(follow.state_dict())
    assert again.updates == 1


def test_uniformity_and_alignment_have_their_known_values():
    torch.manual_seed(0)
    one = torch.ones(8, 16) / 4
    assert moco._uniformity(one).item() == pytest.approx(0, abs=1e-6)
    opposite = torch.stack([one[0], -one[0]])
    assert moco._uniformity(opposite).item() == pytest.approx(-8)  # -2 * |2|^2
    many = torch.nn.functional.normalize(torch.randn(500, 128), dim=1)
    assert moco._uniformity(many).item() == pytest.approx(-3.95, abs=0.1)


def test_training_learns_to_tell_images():
    torch.manual_seed(0)
    model = make(replace(CONFIG, queue_size=64))
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer, follow = torch.optim.AdamW(learning, lr=3e-3), Momentum(0.9)
    # Fringes of a direction of its own tell each image; the views differ in a constant and noise.
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    angle = torch.arange(16) * torch.pi / 16
    fringes = 0.8 * (angle.cos()[:, None, None] * x + angle.sin()[:, None, None] * y)
    top1 = []
    for step in range(40):
        batch = make_batch(16, frames=list(range(16)))
        for view in ("query", "key"):
            phase = fringes + 6.3 * torch.rand(16, 1, 1) + 0.3 * torch.randn(16, 32, 32)
            batch[view]["pixel_values"] = torch.stack(
                [phase.cos(), phase.sin(), torch.ones_like(phase)], dim=1
            )
        loss, logs = moco_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        follow(model, step)
        top1.append(float(logs["top1"]))
    assert sum(top1[-5:]) / 5 > 0.5 > sum(top1[:2]) / 2


def test_saving_keeps_the_encoder_and_its_mlp(tmp_path):
    model = make().eval()
    moco_loss(model, make_batch())
    model.save_pretrained(tmp_path / "model")
    again = MoCo.from_pretrained(tmp_path / "model")
    batch = make_batch(4, seed=3)
    torch.testing.assert_close(again(batch)["query"], model(batch)["query"])
    assert (again.queue_frames == -1).all()
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.key_encoder.parameters(), again.encoder.parameters(), strict=True)
    )
    from heph_vl.models.retriever import Retriever

    with pytest.raises(HephError, match="this is a saved moco; name a saved retriever"):
        Retriever.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queue_size": 0}, "model.queue_size: 0"),
        ({"momentum": 1.1}, "model.momentum: 1.1"),
        ({"temperature": 0.0}, "model.temperature: 0.0"),
    ],
)
def test_settings_out_of_range_are_named(changes, message):
    with pytest.raises(HephError, match=f"^{message}"):
        replace(CONFIG, **changes)


def rank_main(rank, folder):
    """One of two ranks with half of each batch; writes what its queue and weights became."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    model = make(GROUP_NORM)
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    losses = [train_step(wrapped, model, halve(make_batch(8, seed=s), rank)) for s in range(2)]
    torch.save({"losses": losses, "state": model.state_dict()}, f"{folder}/rank_{rank}.pt")
    torch.distributed.destroy_process_group()


def train_step(wrapped, model, batch):
    loss, _ = moco_loss(wrapped, batch)
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.1 * parameter.grad)
                parameter.grad = None
    Momentum(0.9)(model, 0)
    return loss.item()


def halve(batch, rank):
    own = slice(4 * rank, 4 * rank + 4)
    return {k: halve(v, rank) if isinstance(v, dict) else v[own] for k, v in batch.items()}


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path):
    """Queues are equal on both ranks, and losses and weights those of one process."""
    code = "import sys; from tests.models.test_moco import rank_main; "
    code += "rank_main(int(sys.argv[1]), sys.argv[2])"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(tmp_path)],
            cwd=REPO,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=240) for process in ranks] == [0, 0]
    found = [torch.load(tmp_path / f"rank_{rank}.pt") for rank in range(2)]
    model = make(GROUP_NORM)
    alone = [train_step(model, model, make_batch(8, seed=s)) for s in range(2)]
    for name in ("queue", "queue_frames", "queue_images", "queue_end"):
        assert torch.equal(found[0]["state"][name], found[1]["state"][name]), name
    together = [sum(pair) / 2 for pair in zip(*(f["losses"] for f in found), strict=True)]
    assert together == pytest.approx(alone, abs=1e-5), json.dumps(together)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found[0]["state"][name], tensor, atol=1e-5, rtol=1e-4)
