"""Explanations as data, and reports: what they say of a model is what its stages are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.limits import limits
from rnnc.networks.names import layer_names
from tests.refusals import raises_saying

NET = rnnc.Sequential(rnnc.Conv1d(3, 4, 3), rnnc.LSTM(4, 4, 2, bidirectional=True), rnnc.Linear(8, 2))
MODELS: dict[str, Any] = {
    "spec": lambda: rnnc.compile(rnnc.GRU(3, 17, 2), rnnc.GRU(3, 17, 2).init(0)),
    "network": lambda: NET.compile(NET.init(0)),
    "derivative": lambda: rnnc.vjp(rnnc.LSTM(3, 4)),
    "strides": lambda: (
        net := rnnc.Sequential(rnnc.Conv1d(3, 4, 4, padding=(1, 2), stride=2), rnnc.GRU(4, 4)),
        net.compile(net.init(0)),
    )[1],
}
X = np.zeros((6, 2, 3), "float32")


def test_the_limits_of_this_machine() -> None:
    found = limits()
    assert found.flops > 1e8 and all(level.rate > 1e8 for level in found.levels)
    sizes = [level.bytes for level in found.levels]
    assert sizes[:-1] == sorted(sizes[:-1]) and sizes[-1] == 0
    assert found.level(1) is found.levels[0] and found.level(1 << 40) is found.levels[-1]


@pytest.mark.parametrize("name", MODELS)
def test_phases_are_those_of_the_plan(name: str) -> None:
    model = MODELS[name]()
    explanation = model.explanation()
    plan, flops = model.ir("plan"), model._code.manifest.flops_per_row
    assert [phase.name for phase in explanation.phases] == re.findall(r"^  phase (\w+):", plan, re.MULTILINE)
    sums = sum(2 * term.rows * term.units for total in model._code.plan.sums for term in total.terms)
    assert sum(phase.flops for phase in explanation.phases) + sums == flops
    text = str(explanation)
    assert all(f"phase {phase.name}" in text for phase in explanation.phases)
    assert json.loads(json.dumps(explanation.to_dict()))["phases"][0]["name"] == explanation.phases[0].name
    assert all(phase.row_seconds > 0 for phase in explanation.phases if phase.flops)


def test_what_is_outside_of_a_fast_path() -> None:
    def advice(spec: rnnc.Spec, **options: Any) -> str:
        params = {name: np.zeros(shape, "f4") for name, shape in spec.parameter_shapes().items()}
        return str(rnnc.compile(spec, params, **options).explanation())

    assert "17 units take" in advice(rnnc.GRU(3, 17))
    assert "nothing is outside" in advice(rnnc.GRU(64, 64), threads=1)
    big = rnnc.RNN(8, 4096)
    assert "weights='int8'" in advice(big) and "weights='int8'" not in advice(big, weights="int8")


def test_layers_go_by_their_names() -> None:
    assert layer_names(NET.graph()) == ("0", "1.0", "1.1", "2")
    layers = {layer for phase in MODELS["network"]().explanation().phases for layer in phase.layers}
    assert {"0", "1.0.fwd", "1.1.bwd", "2"} <= layers
    assert {"1.0.fwd", "2"} <= {row.site for row in MODELS["network"]().profile(X, seconds=0).rows}


class _Page(HTMLParser):
    """The elements of a page: that each is closed, and what is referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sites: list[tuple[str, int]] = []
        self.references: list[str] = []
        self.data = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.references += [str(given[name]) for name in ("src", "href", "action") if name in given]
        if "data-site" in given:
            self.sites.append((str(given["data-site"]), int(str(given["data-step"]))))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element that ends where it begins."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script" and data.lstrip().startswith("{"):
            self.data = data


@pytest.mark.parametrize("name", MODELS)
def test_a_report_has_every_stage_of_every_box(name: str) -> None:
    model = MODELS[name]()
    text = model.report(steps=3, profile=None if name == "derivative" else model.profile(X, seconds=0))
    page = _Page()
    page.feed(text)
    assert page.open == [] and page.references == []
    assert "@import" not in text and not re.findall(r"url\((?!#)", text)
    data = json.loads(page.data)
    stages = {stage["name"]: stage["text"] for stage in data["stages"]}
    assert list(stages) == ["lowered", "optimized", "rolled", "plan"] and page.sites
    places = [line.rpartition("@")[2] for line in stages["lowered"].splitlines() if "@" in line]
    for site, step in page.sites:
        assert any(site in place and f"t={step}" in place for place in places), (site, step)
    for phase in data["phases"]:
        function = data["functions"][phase["function"]]
        assert function["llvm"].startswith("define ") and "ret" in function["asm"]
        assert f"  phase {phase['name']}:" in stages["plan"]


def test_what_has_no_report(tmp_path: Path) -> None:
    spec = rnnc.GRU(3, 4)
    with raises_saying(rnnc.ArgumentError, "report", "'reference'", "llvm"):
        rnnc.compile(spec, spec.init(0), backend="reference").report(tmp_path / "report.html")
    with raises_saying(rnnc.ArgumentError, "explanation", "'reference'"):
        rnnc.compile(spec, backend="reference").explanation()
    with raises_saying(rnnc.ArgumentError, "steps", "0"):
        rnnc.compile(spec).report(steps=0)
    assert list(tmp_path.iterdir()) == []


CLICK = "<script>document.querySelector('g[data-site]').dispatchEvent(new MouseEvent('click'))</script>"
CHROMIUM = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking".split()


@pytest.mark.rare
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_click_in_a_browser(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(MODELS["spec"]().report().replace("</body>", f"{CLICK}</body>"), encoding="utf-8")
    run = ["chromium", *CHROMIUM, f"--user-data-dir={tmp_path / 'user'}", "--dump-dom", page.as_uri()]
    dom = subprocess.run(run, capture_output=True, text=True, timeout=60).stdout
    selected = dom[dom.index('id="selected"') : dom.index('id="section-what-limits-each-phase"')]
    assert "(l0.fwd, t = 0)" in selected and "sigmoid" in selected
