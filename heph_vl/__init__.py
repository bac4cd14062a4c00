"""Vision-language models for InSAR on the Hephaestus dataset.

Importing this package imports neither torch nor the models: each submodule is imported by name.
"""

__version__ = "0.1.0"
