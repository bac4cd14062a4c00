"""Columns of the dataset configs. Importing this module imports `datasets`."""

from datasets import ClassLabel, Features, Image, List, Value

from heph_vl.data.examples import ATMOSPHERE

_PLACE = {
    "frame_id": Value("string"),
    "pass_direction": Value("string"),
    "volcano_group": Value("string"),
    "volcanoes": List(Value("string")),
    "primary_date": Value("string"),
    "secondary_date": Value("string"),
}
_ORIGIN = {"pixel_spacing_deg": Value("float64"), "source": Value("string")}

FEATURES = Features(
    {
        "image": Image(),
        "coherence": Image(),
        "mask": Image(),
        "caption": Value("string"),
        "unique_id": Value("int64"),
        **_PLACE,
        "label": List(Value("string")),
        "activity_types": List(Value("string")),
        "intensities": List(Value("string")),
        "los_sense": List(Value("string")),
        "volcano_phase": Value("string"),
        "atmosphere": ClassLabel(names=list(ATMOSPHERE)),
        "corrupted": Value("bool"),
        "processing_error": Value("string"),
        "glacier_fringes": Value("bool"),
        "orbital_fringes": Value("bool"),
        "low_coherence": Value("bool"),
        "no_info": Value("bool"),
        "image_artifacts": Value("bool"),
        "confidence": Value("float64"),
        "is_crowd": Value("bool"),
        "polygons": List(List(List(Value("float32")))),
        **_ORIGIN,
    }
)
"""Columns of config `interferograms`. `activity_types`, `intensities`, `los_sense` and `polygons`
([[x, y], ...] in pixels of the image) have one entry for each event; dates are YYYY-MM-DD."""

_PATCH_COLUMNS = {
    "patch": Value("string"),
    "kind": Value("string"),
    "window": List(Value("int32")),
}


def features(config: str) -> Features:
    """Columns of a config.

    Args:
        config: `interferograms`, `patches` or `unlabeled`.

    Returns:
        FEATURES; for `patches` with `patch` (name), `kind` (crop or tile) and `window` (x0, y0, x1,
        y1 in the interferogram); for `unlabeled` images, place and dates only.
    """
    if config == "unlabeled":
        return Features({"image": Image(), "coherence": Image(), **_PLACE, **_ORIGIN})
    return Features({**FEATURES, **_PATCH_COLUMNS}) if config == "patches" else FEATURES
