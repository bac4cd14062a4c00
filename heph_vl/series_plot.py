"""A frame's interferograms and their best series as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from heph_vl.errors import HephError
from heph_vl.files import writing
from heph_vl.series import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize

_CHOSEN, _OTHERS = "black", "0.75"
_COLOURS = "viridis"


def draw_series(series: Series, path: Path) -> None:
    """Write the picture: all pairs by date and length, and the chosen ones as spans of time.

    Above, each pair is a point at its primary date and its length; the line joins the series.
    Below, each pair of the series is a bar from its first to its second date; red marks those
    whose record names deformation. Colours are the scores.

    Args:
        series: What `find_series` found.
        path: The file; its ending gives the format (.png, .pdf, .svg).

    Raises:
        HephError: The format is unknown or the file cannot be written.
    """
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    height = 4.5 + 0.06 * min(len(series.chosen), 150)
    figure = Figure(figsize=(11, height), layout="constrained", dpi=110)
    above, below = figure.subplots(2, 1, sharex=True)
    norm = Normalize(0, max(series.scores) or 1)
    _draw_all(above, series, norm)
    _draw_spans(below, series, norm)
    above.set_title(
        f"{series.frame_id}: {len(series.chosen)} of {len(series.pairs)} pairs, "
        f"scored by {series.kind}, {len(series.nested)} pairs of pairs without order"
    )
    figure.colorbar(_mappable(norm), ax=[above, below], label="score", shrink=0.6)
    try:
        with writing(path):
            figure.savefig(path)
    except ValueError as error:
        raise HephError(str(path), str(error), "name it .png, .pdf or .svg") from error


def _draw_all(axes: "Axes", series: Series, norm: "Normalize") -> None:
    dates: Any = [pair.primary_date for pair in series.pairs]
    days = [(pair.secondary_date - pair.primary_date).days for pair in series.pairs]
    axes.plot(
        [dates[i] for i in series.chosen],
        [days[i] for i in series.chosen],
        color=_CHOSEN,
        linewidth=0.8,
        zorder=2,
    )
    axes.scatter(dates, days, s=8, c=series.scores, norm=norm, cmap=_COLOURS, zorder=1)
    chosen = [dates[i] for i in series.chosen], [days[i] for i in series.chosen]
    axes.scatter(*chosen, s=22, facecolors="none", edgecolors=_CHOSEN, linewidths=0.8, zorder=3)
    axes.set_yscale("log")
    axes.set_ylabel("temporal baseline [days]")
    axes.grid(color=_OTHERS, linewidth=0.3)


def _draw_spans(axes: "Axes", series: Series, norm: "Normalize") -> None:
    colours = _mappable(norm).to_rgba([series.scores[i] for i in series.chosen])
    for place, (i, colour) in enumerate(zip(series.chosen, colours, strict=True)):
        pair = series.pairs[i]
        span: Any = [pair.primary_date, pair.secondary_date]
        axes.plot(span, [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
        if pair.record is not None and pair.record.has_deformation:
            axes.plot(span[1:], [place], "s", color="tab:red", markersize=3)
    axes.invert_yaxis()
    axes.set_ylabel("pair of the series")
    axes.grid(color=_OTHERS, linewidth=0.3, axis="x")


def _mappable(norm: "Normalize") -> Any:
    from matplotlib.cm import ScalarMappable

    return ScalarMappable(norm, _COLOURS)
