"""How a figure becomes part of a page, which may be light or dark, or a picture in a message."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE, AFTER, ALARM, GREY = "#94a3b8", "#3b82f6", "#ef4444", "#808080"

# Texts stay texts, so that they can be read, searched and copied; `$` in an id is a dollar, no formula.
_STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "font.size": 9,
}
_NO_METADATA: Final = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_COMMENTS_AND_NAMESPACES: Final = re.compile(r'<!--.*?-->\n?| xmlns(?::\w+)?="[^"]*"', re.DOTALL)


def svg(draw: Callable[[Figure], None], *, label: str, size: tuple[float, float]) -> Markup:
    """Draw a figure as SVG for the inside of a page; what is drawn in `GREY` takes the colour of the page's text.

    Args:
        draw: Draws into an empty figure.
        label: What it shows, for those who do not see it; tells the figures of one page apart.
        size: Inches; 72 to 96 pixels each.
    """
    import matplotlib as mpl
    from markupsafe import Markup, escape
    from matplotlib.figure import Figure

    drawing = io.StringIO()
    # Salted, ids differ between the figures of a page, and are the same each time.
    with mpl.rc_context(_STYLE | {"svg.hashsalt": label}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(drawing, format="svg", transparent=True, metadata=_NO_METADATA)
    text = drawing.getvalue()
    text = _COMMENTS_AND_NAMESPACES.sub("", text[text.index("<svg") :]).replace(GREY, "currentColor")
    described = f'<svg role="img" aria-label="{escape(label)}"'
    return Markup(text.replace("<svg", described, 1))  # noqa: S704 - drawn here, by a library that escapes


def png(draw: Callable[[Figure], None], *, size: tuple[float, float]) -> bytes:
    """Draw a figure as PNG on white, for a message. Arguments as those of `svg`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    drawing = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(drawing, format="png", dpi=120, facecolor="white")
    return drawing.getvalue()


def soften(*all_axes: Axes) -> None:
    """Draw frame and ticks of axes in what suits a light and a dark page."""
    for axes in all_axes:
        axes.tick_params(which="both", colors=GREY)
        for side in axes.spines.values():
            side.set_color("#80808080")
