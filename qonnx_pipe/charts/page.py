"""Page: a stage's template rendered beside the shared style, as one document that loads nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

import jinja2

from qonnx_pipe.charts import wording

SHARED = Path(__file__).parent / "templates"
"""Where `frame.html`, `style.css` and `parts.html` lie, which every page takes in."""


def render(template: Path, **values: object) -> str:
    """The page that `template` makes of `values`; every text from outside is escaped, every name must be known."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= wording.FILTERS
    return environment.get_template(template.name).render(**values)
