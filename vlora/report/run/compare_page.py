"""The page that compares several runs."""

from datetime import datetime

from ..charts.chart import Chart
from ..page import render
from .comparison import Comparison
from .run_page import N_ASIDE, draw_chart, draw_charts


def make_comparison_page(comparison: Comparison, now: datetime) -> str:
    """Make the page.

    Args:
        comparison: The runs beside one another.
        now: When that was.
    """
    first, *others = comparison.charts or [Chart(title="", lines=())]
    drawn = draw_charts(others, "other")
    return render(
        "compare.html.j2",
        "charts.css",
        "compare.css",
        names=comparison.names,
        folders=[str(run.folder) for run in comparison.runs],
        written=f"{now:%Y-%m-%d %H:%M:%S}",
        numbers=comparison.numbers,
        recipe=comparison.recipe,
        of_one_loss=comparison.of_one_loss,
        main=draw_chart(first, "main", is_main=True),
        aside=drawn[:N_ASIDE],
        charts=drawn[N_ASIDE:],
    )
