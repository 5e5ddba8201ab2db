"""Drawing surfaces by matplotlib's object interface, without pyplot's global state."""

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def new_figure(width, height, **options):
    """A white `Figure` of that many inches, with a canvas of its own."""
    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


def to_png(figure, dpi):
    """The figure as PNG bytes; the same figure gives the same bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()
