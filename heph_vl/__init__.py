"""Vision-language models for InSAR on the Hephaestus dataset.

Importing this package imports neither torch nor the models: each submodule is imported by name.
"""

import os

__version__ = "0.1.0"

# libgomp's threads spin while they wait: with another process on the same cores, two-thread torch
# becomes ten times slower. libgomp reads this when torch is loaded, so it must stand before that.
os.environ.setdefault("GOMP_SPINCOUNT", "0")
