"""Both pages in a real browser: nothing to complain of, nothing asked for, readable on a phone and on a desk."""

import shutil

import pytest

from qonnx_pipe.stages.report import write_comparison, write_report
from tests.unit.stages.test_report import rewrite
from tests.zoo.chromium import Chromium, find
from tests.zoo.runs import Sizes, make_run

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium on the PATH: the pages are not opened")

READABLE_PX = 12


@pytest.fixture(scope="module")
def browser():
    with Chromium() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page about a run with two providers and long names, and one that compares it with another run."""
    folder = tmp_path_factory.mktemp("pages")
    run = make_run(folder / "run", Sizes(layers=12, width=768, inner=3072))
    rewrite(run / "manifest.json", lambda manifest: manifest.update(recipe="minilm-w8a8-with-a-very-long-name-indeed"))

    def second_provider(verdict):
        verdict["results"] += [{**result, "provider": "openvino"} for result in verdict["results"]]

    rewrite(run / "verdict.json", second_provider)
    other = shutil.copytree(run, folder / "other")
    rewrite(other / "manifest.json", lambda manifest: manifest.update(recipe="other"))
    rewrite(other / "plan.json", lambda plan: [entry.update(spec=None) for entry in plan["entries"][:30]])
    write_report(run, folder / "report.html")
    write_comparison([run, other], folder / "compare.html")
    return {name: folder / f"{name}.html" for name in ("report", "compare")}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("page", ["report", "compare"])
def test_a_page_renders(browser, pages, page, width, scheme):
    seen = browser.layout(pages[page], width=width, scheme=scheme)
    assert seen.complaints == ()
    assert seen.requests == ()
    assert seen.width == width
    assert seen.scroll == width, "the page itself never scrolls sideways"
    assert seen.outside == ()
    assert seen.smallest[0] >= READABLE_PX, seen.smallest
    assert ("Passed" if page == "report" else "2 runs compared") in seen.text
    assert "Trade-off" in seen.text
    assert seen.picture.startswith(b"\x89PNG")


def test_the_browser_would_tell(browser, tmp_path):
    """Each of the checks above fails on a page that deserves it."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!DOCTYPE html><meta name=viewport content='width=device-width'><p style='font-size:9px'>small</p>"
        "<div style='width:2000px'>wide</div><img src='missing.png'><script>console.error('no'); nothing()</script>"
    )
    seen = browser.layout(page, width=400)
    assert seen.smallest == (9, "small")
    assert seen.scroll > 400
    assert seen.outside
    assert any(url.endswith("missing.png") for url in seen.requests)
    assert len(seen.complaints) >= 2
