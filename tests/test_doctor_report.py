"""A diagnosis as text, as JSON and as a page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import xpdense as xd
from xpdense import plots
from xpdense.doctor import diagnosis as module
from xpdense.doctor.diagnosis import Diagnosis
from xpdense.doctor.findings import Finding
from xpdense.errors import MissingDependencyError, OutputError

NAN, INF = float("nan"), float("inf")
RATE = Finding("learning_rate_too_high", "optimizer", "Its loss rises from 0.69 to 31.", 0.12, 0.95, "Divide it by 10.",
               0.93, {"learning_rate_factor": 0.1})
HOSTILE = Finding("unknown", "<b>&\"w'", "It raised <script>alert(1)</script>", fix="Close </style></div>.",
                  change={"drop_rows": [np.int64(3)], "factor": NAN})
LOSSES = {"as it is": [0.69, 5.0, 1e20, 1e300, NAN, INF], "cured": [0.69, 0.3, 0.1], "none": [], "nan": [NAN, -INF]}
LAYERS = {
    "0.weight": np.random.default_rng(0).standard_normal(500), "0.bias": np.zeros(8), "half": np.array([1.0, 2.0, NAN]),
    "nan": np.full(3, NAN), "huge": np.array([1e300, -1e300, INF]), "empty": np.zeros(0), "one": np.array([3.5]),
    "single": np.array([3e38, -3e38], np.float32), "denormal": np.array([5e-324, 0.0]),
    "close": np.array([1, 1 + 2e-16]),
    "mathtext $x_": np.arange(5), "<i>": np.array([True, False]),
}


@pytest.fixture(scope="module")
def gradients() -> xd.GradientReport:
    w = np.array([1.0, 2.0])
    return xd.check_gradients(lambda p: float(p["w"] @ p["w"]), {"w": w}, {"w": w})


@pytest.fixture(scope="module")
def full(gradients: xd.GradientReport) -> Diagnosis:
    return Diagnosis((RATE, HOSTILE), ("No step(X, y) <here>.",), 0.12, 0.97, 0.95, LOSSES, LAYERS, gradients, 3.2)


@pytest.fixture(scope="module")
def html(full: Diagnosis) -> str:
    return full.to_html()


class Tags(HTMLParser):
    """What a page is made of; its tags must close in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found, self.text, self._open = list[tuple[str, dict[str, str | None]]](), "", list[str]()
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


# --- text ----------------------------------------------------------------------------------------------------------

def test_the_text_says_all_and_keeps_to_its_width(full: Diagnosis) -> None:
    text = str(full)
    assert text.startswith("2 findings. Skill: 0.12 as it is, 0.95 with every fix, 0.97 of a reference model")
    for part in ("1. learning_rate_too_high at optimizer (confidence 93 %)", RATE.evidence, RATE.fix,
                 "skill 0.12 with it; 0.95 without it.", "2. unknown at", "Note: No step(X, y) <here>."):
        assert part in text
    assert max(map(len, text.splitlines())) <= module.WIDTH
    assert repr(full) == "Diagnosis(learning_rate_too_high, unknown)"


def test_a_sound_training_is_told_so() -> None:
    found = Diagnosis(skill=0.95, reference=0.96)
    assert found.ok
    assert str(found).startswith("No findings. Skill: 0.95 as it is, 0.96 of a reference model")
    assert str(Diagnosis()) == "No findings."


def test_a_gradients_finding_is_measured_by_its_relative_error(gradients: xd.GradientReport) -> None:
    found = Diagnosis(gradients.findings, gradients=gradients)
    assert "relative error" in found.experiment(found.findings[0])
    assert found.experiment(RATE) == "skill 0.12 with it; 0.95 without it."
    assert found.experiment(HOSTILE) == ""


# --- JSON ----------------------------------------------------------------------------------------------------------

def test_json_holds_all_but_the_layers_values(full: Diagnosis) -> None:
    found = json.loads(json.dumps(full.to_dict(), allow_nan=False))
    assert found["ok"] is False
    assert found["losses"]["as it is"] == [0.69, 5.0, 1e20, 1e300, None, None]
    assert found["findings"][0]["change"] == {"learning_rate_factor": 0.1}
    assert found["findings"][1]["change"] == {"drop_rows": [3], "factor": None}
    assert found["gradients"]["tensors"][0]["name"] == "w"
    assert found["gradients"]["tensors"][0]["ok"] is False
    assert (found["skill"], found["cured"], found["reference"]) == (0.12, 0.95, 0.97)
    assert "layers" not in found


# --- the page ------------------------------------------------------------------------------------------------------

def test_the_page_needs_no_network_and_runs_nothing(html: str) -> None:
    tags = Tags(html).found
    assert not re.search(r"https?://|@import|url\(", html)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in tags}
    assert [attrs["src"][:26] for tag, attrs in tags if tag == "img"] == ["data:image/svg+xml;base64,"] * 2
    assert not [name for _, attrs in tags for name in attrs if name.startswith("on") or name == "href"]


def test_what_others_wrote_is_escaped(html: str) -> None:
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    shown = Tags(html).text
    for text in (HOSTILE.where, HOSTILE.evidence, HOSTILE.fix, "No step(X, y) <here>."):
        assert text in shown


def test_the_page_says_what_the_text_says(html: str, full: Diagnosis) -> None:
    shown = Tags(html).text
    for part in (RATE.cause, RATE.evidence, RATE.fix, full.experiment(RATE), "confidence 93 %", "Examined in 3.2 s"):
        assert part in shown
    assert "norm ratio" in shown
    assert "wrong" in shown


def test_a_page_of_nothing_is_a_page() -> None:
    assert "No findings" in Tags(Diagnosis(losses={"as it is": []}).to_html()).text
    assert "nan" in Tags(Diagnosis(skill=NAN, cured=-0.5).to_html()).text


def test_the_page_is_written_in_utf8(full: Diagnosis, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    cause = Finding("unknown", "größe \ud800", "λ → 0")  # a lone surrogate has no UTF-8
    Diagnosis((cause,)).to_html(path)
    assert "größe &#55296;" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["none/page.html", "."])
def test_a_place_that_cannot_be_written_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        Diagnosis().to_html(tmp_path / name)


def test_without_matplotlib_a_notebook_shows_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Diagnosis((RATE,), losses={"as it is": [1.0, 2.0]})
    assert "<img" in full._repr_html_()
    monkeypatch.setattr(module, "installed", lambda name: False)
    shown = full._repr_html_()
    assert "<img" not in shown
    assert RATE.fix in shown

    def absent(name: str, extra: str, purpose: str) -> None:
        raise MissingDependencyError(f"{purpose} needs {name}: pip install 'xpdense[{extra}]'")

    monkeypatch.setattr(module, "require", absent)
    with pytest.raises(MissingDependencyError, match=r"Diagnosis.to_html needs matplotlib.*xpdense\[plots\]"):
        full.to_html()


# --- figures -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("losses", "scale"), [
    (LOSSES, "log"), ({"as it is": [1.0, 0.0]}, "linear"), ({"as it is": [-1.0, 3.0]}, "linear"), ({}, "linear"),
    ({"as it is": [NAN]}, "linear"),
])
def test_losses_of_any_kind_are_drawn(losses: dict[str, list[float]], scale: str) -> None:
    figure = plots.plot_losses(losses)
    figure.canvas.draw()
    assert figure.axes[0].get_yscale() == scale


def test_each_tensor_has_a_panel_up_to_a_number() -> None:
    figure = plots.plot_layers(LAYERS)
    figure.canvas.draw()
    assert [axes.get_title() for axes in figure.axes] == list(LAYERS)
    many = plots.plot_layers({f"{i}": np.arange(3.0) for i in range(40)})
    assert len(many.axes) == 32
    assert many._supxlabel.get_text() == "the first 32 of 40 tensors"
    plots.plot_layers({}).canvas.draw()
