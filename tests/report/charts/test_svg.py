"""Charts as SVG: well-formed, described, with nothing of a name taken for markup."""

from xml.etree import ElementTree as ET

from tests.report.charts.test_layout import make_chart
from vlora.report.charts.chart import Chart, Line
from vlora.report.charts.layout import lay_out
from vlora.report.charts.svg import draw_svg

NAMESPACE = "{http://www.w3.org/2000/svg}"


def parse(svg: str) -> ET.Element:
    """Read an element of a page as XML."""
    return ET.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def test_a_chart_is_named_and_described() -> None:
    """For those who do not see it; the ids are those of the chart alone."""
    root = parse(draw_svg(lay_out(make_chart(8), 360, 300), "loss"))

    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "loss-title loss-text"
    texts = {element.get("id"): element.text for element in root if element.get("id")}
    assert texts["loss-title"] == "Loss"
    assert (texts["loss-text"] or "").startswith("run 0 of this chart: 100 points, ")


def test_names_are_text() -> None:
    """Names of runs may hold any characters."""
    name = '<script>alert(1)</script> & "quoted"'
    chart = Chart(title=name, lines=(Line(name=name, xs=(1,), ys=(1,)), Line(name="b", xs=(1,), ys=(2,))))

    root = parse(draw_svg(lay_out(chart, 800, 300), "a"))

    assert root.find(f".//{NAMESPACE}script") is None
    assert name in [element.text for element in root.iter(f"{NAMESPACE}text")]


def test_lines_have_dashes_of_their_own_and_the_pages_colours() -> None:
    """Colours are the page's variables, which follow light and dark."""
    root = parse(draw_svg(lay_out(make_chart(3), 360, 300), "a"))
    lines = [element for element in root.iter(f"{NAMESPACE}path") if "line" in (element.get("class") or "")]

    assert len({(line.get("stroke"), line.get("stroke-dasharray")) for line in lines}) == 3
    assert all((line.get("stroke") or "").startswith("var(--chart-") for line in lines)
