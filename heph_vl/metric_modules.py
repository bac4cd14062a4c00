"""Metrics as modules of `evaluate`: a folder that `evaluate.load` reads, here or from the Hub.

folder = write_module("fact_scores", Path("metrics"))
evaluate.load(str(folder)).compute(predictions=texts, references=captions)
"""

from pathlib import Path

from heph_vl import __version__
from heph_vl.errors import HephError
from heph_vl.files import write_text, writing

MODULES = {  # name -> class of metrics.captioning, title
    "fact_scores": ("FactScores", "Facts of InSAR captions"),
    "bleu": ("Bleu", "BLEU of InSAR captions"),
    "rouge_l": ("RougeL", "ROUGE-L of InSAR captions"),
    "meteor": ("Meteor", "METEOR of InSAR captions"),
    "cider_d": ("CiderD", "CIDEr-D of InSAR captions"),
}
_CODE = '''"""{title}: `{name}` of heph_vl, for evaluate.load."""

from heph_vl.metrics.captioning import {cls}  # noqa: F401 - found by evaluate.load
'''
_CARD = """---
title: {title}
sdk: gradio
sdk_version: "6.31.0"
app_file: app.py
license: mit
tags:
- evaluate
- metric
- InSAR
---

# {title}

{doc}

```python
import evaluate

metric = evaluate.load("./{name}/{name}.py")  # or "user/{name}" of the Hub
metric.compute(predictions=["No deformation."], references=["No deformation."])
```

Predictions and references are texts, one of each for each image. Computed by heph_vl {version},
which must be installed: see there for the definition, its source and its tests. A Space needs a
wheel of it in `requirements.txt` as long as it is on no package index.

## Limits

Captions of Hephaestus are short and repeat: a constant caption scores high on measures by words.
Give the constant caption's score beside any other.
"""
_APP = """from pathlib import Path

import evaluate
from evaluate.utils import launch_gradio_widget

# By its file: a bare name would be looked up on the Hub.
launch_gradio_widget(evaluate.load(str(Path(__file__).with_name("{name}.py"))))
"""


def write_module(name: str, folder: Path) -> Path:
    """Write the module of a metric.

    Args:
        name: Of `MODULES`.
        folder: In which a folder of that name is made.

    Returns:
        The module's folder.

    Raises:
        HephError: There is no such metric.
    """
    if name not in MODULES:
        raise HephError(f"metric:{name}", "no such metric", f"one of {', '.join(MODULES)}")
    from heph_vl.metrics import captioning

    cls, title = MODULES[name]
    doc = " ".join((getattr(captioning, cls).__doc__ or "").split())
    out = folder / name
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / f"{name}.py", _CODE.format(title=title, name=name, cls=cls))
        write_text(out / "app.py", _APP.format(name=name))
        write_text(out / "requirements.txt", "heph-vl\n")
        card = _CARD.format(title=title, name=name, doc=doc, version=__version__)
        write_text(out / "README.md", card)
    return out
