"""The bars of a report: a value stands beside its bar, and over nothing else."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg

from adapt.charts import class_bars
from adapt.pictures import drawing

GAINS = {"walk": -100.0, "climb a wall": 100.0, "run": -3.2, "sit": 0.0, "no video": None}


def test_no_value_stands_over_the_name_of_a_class() -> None:
    """Measured where matplotlib puts them: between the axis and the picture's edge, left and right."""
    for values in (GAINS, {"a": -0.4, "b": 0.3}, {"a": -100.0}, {"a": None}):
        with drawing():
            figure = class_bars("gain", "gain, points", values, signed=True).figure
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            [panel] = figure.axes
            frame = panel.get_window_extent()
            written = [text.get_window_extent(canvas.get_renderer()) for text in panel.texts]
        assert len(written) == len(values)
        for value, box in zip(values.values(), written):
            assert frame.x0 < box.x0 and box.x1 <= frame.x1, (value, box, frame)


def test_a_value_stands_outside_its_bar() -> None:
    with drawing():
        figure = class_bars("gain", "gain, points", GAINS, signed=True).figure
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        [panel] = figure.axes
        for value, bar, text in zip(GAINS.values(), panel.patches, panel.texts):
            box, drawn = text.get_window_extent(canvas.get_renderer()), bar.get_window_extent()
            if value is not None and value < 0:
                assert box.x1 <= drawn.x0
            else:
                assert box.x0 >= drawn.x1
