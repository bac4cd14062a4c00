"""Validation of a captioner: its scores by hand, and the threshold that keeps false alarms rare."""

from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from heph_vl.caption import NUM_SAMPLES
from heph_vl.data.parquet import load, write_parquet
from heph_vl.errors import HephError
from heph_vl.models.captioner import Captioner, Memory
from heph_vl.models.consensus import Answer, choose
from heph_vl.models.text import train_tokenizer
from heph_vl.validate import caption_facts, fit_threshold
from tests import tiny_captioner
from tests.data.fake_archive import write_fake_archive
from tests.metrics.test_caption_facts import REFERENCES, TEXTS

SILL, CALM = "A sill on the left.", "No deformation."


class Scripted(Captioner):
    """Looks at images as any, and says of each in turn what it was told to."""

    script: tuple[list[str], ...]
    said = 0

    def answer(
        self, memory: Memory, *, num_samples: int = NUM_SAMPLES, num_beams: int = 0, seed: int = 0
    ) -> list[Answer]:
        samples = self.script[self.said % len(self.script)]
        self.said += 1
        return [choose([(text, -1.0) for text in samples], self.threshold)]


def scripted(*script: list[str]) -> Scripted:
    model = Scripted(tiny_captioner.CONFIG).train()
    model.script = script
    return model


def drawn(deforming: int) -> list[str]:
    """Samples of which so many tell a deformation."""
    return [SILL] * deforming + [CALM] * (NUM_SAMPLES - deforming)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    root = tmp_path_factory.mktemp("validate")
    write_fake_archive(root / "archive", n=20, size=64)
    write_parquet(root / "archive", root / "dataset")
    return load(root / "dataset", "test")


def labelled(rows: Any, captions: list[str], deforming: list[bool]) -> Any:
    """As many images with these captions and labels."""
    repeated = rows.select([i % len(rows) for i in range(len(captions))])
    kinds = [["sill"] if deforms else [] for deforms in deforming]
    plain = repeated.remove_columns(["caption", "activity_types"])
    return plain.add_column("caption", captions).add_column("activity_types", kinds)


def test_scores_of_captions_by_hand(four: datasets.Dataset) -> None:
    rows = labelled(four, REFERENCES, [True, True, False, False])
    model = scripted(*([text] for text in TEXTS))
    found = caption_facts(model, rows)
    assert found == pytest.approx(
        {
            "fact_f1": 10 / 19,
            "deformation_f1": 2 / 5,
            "exact": 1 / 4,
            "distinct": 4,
            "images": 4,
            "left_out": 0,
            "hallucination": 1 / 2,
            "miss": 1 / 2,
        }
    )
    assert model.training
    assert model.said == 4


def test_labels_not_captions_tell_what_deforms(four: datasets.Dataset) -> None:
    rows = labelled(four, [CALM, SILL, SILL, SILL], [True, False, False, False])
    found = caption_facts(scripted([SILL], [SILL], [CALM], [CALM]), rows)
    assert found["miss"] == 0
    assert found["hallucination"] == pytest.approx(1 / 3)
    assert found["distinct"] == 2


def test_there_is_no_share_of_nothing(four: datasets.Dataset) -> None:
    deforming = caption_facts(scripted([SILL], [CALM]), labelled(four, [SILL] * 2, [True] * 2))
    assert "hallucination" not in deforming
    assert deforming["miss"] == 1 / 2
    calm = caption_facts(scripted([SILL], [CALM]), labelled(four, [CALM] * 2, [False] * 2))
    assert "miss" not in calm
    assert calm["hallucination"] == 1 / 2


def test_unreadable_images_are_left_out(four: datasets.Dataset) -> None:
    rows = labelled(four, REFERENCES, [True, True, False, False])
    white = Image.new("RGB", (64, 64), "white")

    def blank(row: dict[str, Any], i: int) -> dict[str, Any]:
        return row | {"image": white} if i in which else row

    which = {1}
    some = rows.map(blank, with_indices=True, features=rows.features, keep_in_memory=True)
    found = caption_facts(scripted([TEXTS[0]], [TEXTS[2]], [TEXTS[3]]), some)
    assert found == pytest.approx(
        {
            "fact_f1": 2 * 5 / (8 + 8),
            "deformation_f1": 2 * 2 / (3 + 5),
            "exact": 1 / 3,
            "distinct": 3,
            "images": 3,
            "left_out": 1,
            "hallucination": 1 / 2,
            "miss": 0,
        }
    )
    which = {0, 1, 2, 3}
    none = rows.map(blank, with_indices=True, features=rows.features, keep_in_memory=True)
    with pytest.raises(HephError, match="none of 4 could be read"):
        caption_facts(scripted([CALM]), none)


def test_the_threshold_lies_just_above_the_highest_share_of_a_calm_image(
    four: datasets.Dataset,
) -> None:
    shares = [20, 3, 10, 2, 10, 11]
    deforming = [True, False, False, False, True, True]
    rows = labelled(four, [SILL if d else CALM for d in deforming], deforming)
    model = scripted(*map(drawn, shares))
    model.threshold = 0.9
    found = fit_threshold(model, rows)
    assert model.threshold == found["threshold"] == 10 / NUM_SAMPLES + 0.5 / NUM_SAMPLES
    # 10 of them lies on a calm image's share: it is not enough; 11 is.
    assert found["miss"] == pytest.approx(1 / 3)
    assert found["hallucination"] == 0
    assert found["exact"] == pytest.approx(5 / 6)
    again = caption_facts(model, rows)
    assert found == {"threshold": model.threshold, **again}


@pytest.mark.parametrize(("calm", "highest", "alarms"), [(99, 20, 0), (100, 12, 1), (199, 12, 1)])
def test_one_in_a_hundred_calm_images_may_be_given_a_deformation(
    four: datasets.Dataset, calm: int, highest: int, alarms: int
) -> None:
    shares = [20, 12, *[1] * (calm - 2), 15]
    rows = labelled(four, [CALM] * calm + [SILL], [False] * calm + [True])
    model = scripted(*map(drawn, shares))
    found = fit_threshold(model, rows)
    assert found["threshold"] == highest / NUM_SAMPLES + 0.5 / NUM_SAMPLES
    assert found["hallucination"] == pytest.approx(alarms / calm)
    assert found["miss"] == (0 if alarms else 1)


def test_without_calm_images_the_threshold_stays(four: datasets.Dataset) -> None:
    rows = labelled(four, [SILL] * 2, [True] * 2)
    model = scripted(drawn(1), drawn(0))
    found = fit_threshold(model, rows)
    assert found["threshold"] == model.threshold == 0.5
    assert "hallucination" not in found


def test_a_fitted_threshold_can_be_saved(four: datasets.Dataset, tmp_path: Path) -> None:
    tokenizer = train_tokenizer([SILL, CALM], tmp_path / "tokenizer", 300)
    model = tiny_captioner.make(tokenizer, context_length=24)
    tiny_captioner.teach(model, [SILL])
    found = fit_threshold(model, labelled(four, [CALM, CALM, SILL], [False, False, True]))
    assert 0.9 < found["threshold"] <= 1  # it says the sill of every image
    model.save_pretrained(tmp_path / "model")
    assert Captioner.from_pretrained(tmp_path / "model").threshold == found["threshold"]
