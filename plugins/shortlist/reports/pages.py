"""Makes one self-contained page of a template, figures and numbers: no script, nothing from another place."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def page(template: str, **values: Any) -> str:  # noqa: ANN401
    """Return the page that a template of this folder makes of the values. Texts are escaped, figures are not."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"thousands": "{:,}".format, "value": value}
    return environment.get_template(template).render(values)


def value(number: float) -> str:
    """Return a number as people compare it: three places, or as many digits where those say nothing.

    Example:
        >>> value(0.1234), value(0.00456), value(0.000456), value(12.3456), value(0)
        ('0.123', '0.005', '0.000456', '12.3', '0')
    """
    if number == 0:
        return "0"
    return f"{number:.3g}" if abs(number) < 0.001 or abs(number) >= 10 else f"{number:.3f}"
