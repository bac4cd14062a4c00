"""What an index stores of an image: its key, the columns to filter on and show, a thumbnail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from heph_vl.errors import HephError
from heph_vl.nearest import Vectors
from heph_vl.where import Kind

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image

# What a filter may name. `image_id` is the key: one interferogram may have several patches.
COLUMNS: dict[str, Kind] = {
    "image_id": "text",
    "unique_id": "integer",
    "frame_id": "text",
    "volcano_group": "text",
    "volcanoes": "list",
    "longitude": "number",  # of the middle [deg], where the file says where it lies
    "latitude": "number",
    "primary_date": "date",
    "secondary_date": "date",
    "caption": "text",
    "label": "list",
    "activity_types": "list",
    "intensities": "list",
    "volcano_phase": "text",
    "atmosphere": "integer",
    "corrupted": "flag",
    "processing_error": "text",
    "glacier_fringes": "flag",
    "orbital_fringes": "flag",
    "low_coherence": "flag",
    "no_info": "flag",
    "image_artifacts": "flag",
    "confidence": "number",
    "image": "text",
    "source": "text",
    "data": "text",  # folder of dataset, archive or files that the image came from
}
# What tells an image: a name, else place and dates together.
ID_COLUMNS = ("image_id", "patch", "unique_id", "frame_id", "primary_date", "secondary_date")
THUMBNAIL_SIDE = 192  # px: several results fit beside one another, fringes are still seen


def index_row(example: Mapping[str, Any]) -> dict[str, Any]:
    """The index columns of one dataset example, with a thumbnail of its image.

    Args:
        example: A row of the dataset with its image decoded (PIL) or as stored (``{"bytes"}``).

    Returns:
        Values for ``COLUMNS`` and ``thumbnail``; ``image`` is the path inside the raw archive, or
        that of the file if it is of none.
    """
    row: dict[str, Any] = {name: example.get(name) for name in COLUMNS}
    for name in ("primary_date", "secondary_date"):
        row[name] = None if row[name] is None else str(row[name])[:10]
    for name, kind in COLUMNS.items():
        if kind == "list" and row[name] is not None:
            row[name] = [str(member) for member in row[name] if member is not None]
    image = row["image"]
    row["image_id"] = image_id_of(example)
    pair = _pair(row)
    if row["frame_id"] is None and isinstance(image, Mapping):  # a file outside any archive
        row["image"] = image.get("path") or row["image_id"]
    elif not isinstance(image, str):
        row["image"] = f"{row['frame_id']}/interferograms/{pair}/{pair}.geo.diff.png"
    row["thumbnail"] = None if image is None or isinstance(image, str) else thumbnail(image)
    return row


def thumbnail(image: Image.Image | Mapping[str, Any], side: int = THUMBNAIL_SIDE) -> bytes:
    """A PNG of the image, no-data transparent, at most ``side`` px wide and high.

    Args:
        image: A PIL image, or ``{"bytes": ...}`` of an encoded one.
        side: Largest width and height [px].

    Returns:
        The encoded PNG.
    """
    from PIL import Image

    if isinstance(image, Mapping):
        image = Image.open(BytesIO(image["bytes"]))
    small = image.convert("RGBA")
    small.thumbnail((side, side))
    buffer = BytesIO()
    small.save(buffer, format="PNG")
    return buffer.getvalue()


def image_id_of(row: Mapping[str, Any]) -> str:
    """The key of an image: ``image_id``, else the patch's name, ``unique_id``, or frame and dates.

    Args:
        row: Of a dataset, or index columns.

    Returns:
        The key as text.

    Raises:
        HephError: If the row has none of them.
    """
    for name in ID_COLUMNS[:3]:
        if row.get(name) is not None:
            return str(row[name])
    if any(row.get(name) is None for name in ID_COLUMNS[3:]):
        raise HephError("index", "an image without unique_id and image_id", "give each image an id")
    return f"{row['frame_id']}_{_pair(row)}"  # an unlabeled image has only place and dates


def _pair(row: Mapping[str, Any]) -> str:
    dates = (str(row.get(name))[:10] for name in ("primary_date", "secondary_date"))
    return "_".join(dates).replace("-", "")


def schema(dim: int) -> pa.Schema:
    """Arrow fields of the table: ``vector``, ``COLUMNS``, ``thumbnail``."""
    import pyarrow as pa

    types = {
        "text": pa.string(),
        "date": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "flag": pa.bool_(),
        "list": pa.list_(pa.string()),
    }
    columns = [pa.field(name, types[kind]) for name, kind in COLUMNS.items()]
    vector = pa.field("vector", pa.list_(pa.float32(), dim))
    return pa.schema([vector, *columns, pa.field("thumbnail", pa.binary())])


def record_batch(
    vectors: Vectors, ids: list[str], rows: Sequence[Mapping[str, Any]]
) -> pa.RecordBatch:
    """The images as Arrow.

    Args:
        vectors: (n, D) float32, C-contiguous.
        ids: n keys.
        rows: n mappings; what one lacks is stored as missing.

    Returns:
        n rows of ``schema(D)``.
    """
    import pyarrow as pa

    dim = vectors.shape[1]
    fields = schema(dim)
    columns: list[pa.Array] = [pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim)]
    for field in list(fields)[1:]:
        values = ids if field.name == "image_id" else [row.get(field.name) for row in rows]
        columns.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=fields)
