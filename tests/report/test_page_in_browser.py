"""The page in a real browser; without Chromium these tests are skipped."""

from __future__ import annotations

import pytest
from report_workspace import write_workspace

from benchmarks.page_in_browser import browser_tab, chromium, faults_of, readme_pictures
from components.files import read_json, write_json
from tasks.report import report

pytestmark = pytest.mark.skipif(chromium() is None, reason="there is no Chromium on this machine")

CLASSES = {
    "classification": None,
    "detection": ["RBC", "WBC", "a name that is long " * 8, "шапка帽子" * 12],
}
FAULTY = """<!DOCTYPE html><html lang="en"><head><title>x</title><style>
:root { --ground: #fff; --s0: #eee; --s1: #111; --s2: #111; --s3: #111; --s4: #111; --s5: #111;
--s6: #111; --s7: #111 } a:focus { outline: none }
</style></head><body>
<p style="color: #aaa">hardly there</p><p style="width: 2000px">far too wide</p>
<img src="http://127.0.0.1:9/x.png" width="9" height="9"><a href="#a">a</a>
<details><summary>more</summary><p>folded</p></details>
<div tabindex="5">out of order</div><div tabindex="0">in order</div>
<script>console.error("oh"); throw new Error("no")</script></body></html>"""


@pytest.fixture(scope="module")
def tab():
    with browser_tab() as tab:
        yield tab


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classification", "detection"])
def test_nothing_is_wrong_with_the_page(tab, tmp_path, task):
    classes = (
        ["RBC", "WBC", "a name that is long " * 8, "шапка帽子" * 12]
        if task == "detection"
        else None
    )
    params, layout = write_workspace(tmp_path, task, classes, num_mistakes=3)
    path = layout.evaluation / "details.json"
    details = read_json(path)
    write_json(path, details | {"split": "val"})
    report(params, layout)
    assert faults_of(tab, layout.page, tmp_path / "shots") == []
    shots = {path.name for path in (tmp_path / "shots").iterdir()}
    assert {"390-light.png", "1440-dark.png", "print.png", "page.pdf"} <= shots
    if task == "detection":
        for picture in readme_pictures(tab, layout.page, tmp_path):
            assert 10_000 < picture.stat().st_size < 200_000


def test_each_fault_is_seen(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(FAULTY, encoding="utf-8")
    with browser_tab() as tab:
        found = "\n".join(faults_of(tab, page))
    for words in (
        "console: ",
        "exception: ",
        "request: http://127.0.0.1:9/x.png",
        "390 px, light: 2",
        "hardly there",
        "lines of --s0",
        "image without a name",
        "the Tab key comes to place",
        "1 folded parts stay folded",
    ):
        assert words in found, (words, found)
