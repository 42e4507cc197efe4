"""A diagnosis as HTML: one page with its figures inside, without scripts or links."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from .findings import Finding
from .gradients.check import GradientReport

STYLE = """
.xpdense { --ink: #1d2127; --soft: #666d78; --line: #e0e3e8; --card: #f7f8fa; --good: #1f8a70; --bad: #c2553a;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink); max-width: 58rem;
  margin: 0 auto; padding: 1.5rem 1rem; overflow-wrap: anywhere; background: #fff; }
@media (prefers-color-scheme: dark) { .xpdense { --ink: #e4e6ea; --soft: #9aa1ac; --line: #353a42; --card: #1f2329;
  --good: #45b394; --bad: #e07f66; background: #16191d; } }
.xpdense h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .4rem; }
.xpdense h2 { font-size: 1.1rem; margin: 2.4rem 0 .7rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
.xpdense p { margin: .35rem 0; }
.xpdense .soft { color: var(--soft); }
.xpdense code { font: .92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.xpdense .skill { display: grid; grid-template-columns: max-content 1fr 3rem; gap: .3rem .8rem; align-items: center;
  margin: 1rem 0; max-width: 38rem; }
.xpdense .track { height: .6rem; border-radius: .3rem; background: var(--line); overflow: hidden; }
.xpdense .track span { display: block; height: 100%; background: var(--good); }
.xpdense .track .given { background: var(--bad); }
.xpdense .finding { background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--bad);
  border-radius: 6px; padding: .8rem 1.1rem; margin: .8rem 0; }
.xpdense .finding h3 { font-size: 1.05rem; margin: 0; display: flex; gap: .8rem; justify-content: space-between; }
.xpdense .finding h3 span { font-weight: 400; font-size: .9rem; white-space: nowrap; }
.xpdense table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.xpdense th, .xpdense td { text-align: right; padding: .3rem .7rem; border-bottom: 1px solid var(--line); }
.xpdense th { color: var(--soft); font-weight: 600; font-size: .87rem; }
.xpdense th:first-child, .xpdense td:first-child { text-align: left; padding-left: 0; }
.xpdense .good { color: var(--good); }
.xpdense .bad { color: var(--bad); font-weight: 600; }
.xpdense .scroll { overflow-x: auto; }
.xpdense img { max-width: 100%; height: auto; display: block; }
"""


def page(body: str) -> str:
    """Return a complete document around a fragment."""
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta name="color-scheme" content="light dark">\n<title>Diagnosis of a training</title>\n'
            f'<style>body {{ margin: 0; }}\n@media (prefers-color-scheme: dark) {{ body {{ background: #16191d; }} }}'
            f'</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n')


def fragment(findings: Sequence[tuple[Finding, str]], skills: Mapping[str, float], seconds: float,
             notes: Sequence[str], losses: Mapping[str, list[float]], layers: Mapping[str, np.ndarray],
             gradients: GradientReport | None) -> str:
    """Return a diagnosis as HTML for a notebook or a page.

    Parameters
    ----------
    findings : sequence of (Finding, str)
        Each with a sentence about its experiment.
    skills : mapping of str to float
    seconds : float
    notes : sequence of str
    losses, layers
        What figures show, as in Diagnosis.
    gradients : GradientReport, optional
    """
    count = len(findings)
    parts = [f"<h1>{count or 'No'} finding{'s' if count != 1 else ''}</h1>", *_skills(skills, count > 0)]
    if seconds > 0:
        parts.append(f'<p class="soft">Examined in {seconds:.1f} s.</p>')
    if findings:
        parts += ["<h2>Findings, worst first</h2>", *(_card(n, *found) for n, found in enumerate(findings, 1))]
    if notes:
        parts += ["<h2>Not examined</h2>", *(f"<p>{escape(note)}</p>" for note in notes)]
    if losses or layers:
        parts += _figures(losses, layers)
    if gradients is not None:
        parts.append(_gradients(gradients))
    return f'<style>{STYLE}</style>\n<div class="xpdense">\n' + "\n".join(parts) + "\n</div>"


def _skills(skills: Mapping[str, float], faulty: bool) -> list[str]:
    rows = []
    for words, value in skills.items():
        width = 100.0 * min(1.0, value) if value > 0.0 else 0.0  # also for NaN
        kind = ' class="given"' if words == "as it is" and faulty else ""
        rows.append(f'<div>{words}</div><div class="track"><span{kind} style="width: {width:.1f}%"></span></div>'
                    f"<div>{value:.2f}</div>")
    return ['<p class="soft">The skill on held-out rows: 1 is perfect, 0 is a constant prediction.</p>',
            f'<div class="skill">{"".join(rows)}</div>'] if rows else []


def _card(number: int, finding: Finding, experiment: str) -> str:
    return (f'<div class="finding"><h3><div>{number}. <code>{escape(finding.cause)}</code></div>'
            f'<span class="soft">confidence {100.0 * finding.confidence:.0f} %</span></h3>'
            f'<p class="soft">at <code>{escape(finding.where)}</code></p><p>{escape(finding.evidence)}</p>'
            + (f"<p><b>Experiment:</b> {experiment}</p>" if experiment else "")
            + (f"<p><b>Fix:</b> {escape(finding.fix)}</p>" if finding.fix else "") + "</div>")


def _figures(losses: Mapping[str, list[float]], layers: Mapping[str, np.ndarray]) -> list[str]:
    from ..plots import plot_layers, plot_losses

    parts = []
    if any(len(values) for values in losses.values()):
        parts += ["<h2>Loss</h2>", _image(plot_losses(losses), "Loss curves over the training")]
    if layers:
        parts += ["<h2>Parameters before the training</h2>",
                  _image(plot_layers(layers), "Histograms of the values of each tensor")]
    return parts


def _image(figure: Any, words: str) -> str:
    """Return a figure as an SVG image inside the page."""
    file = io.BytesIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # the same page at each call
    figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    return f'<img alt="{words}" src="data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _gradients(checked: GradientReport) -> str:
    rows = []
    for t in checked.tensors:
        status, kind = ("right", "good") if t.ok else ("wrong", "bad") if t.probes else ("not checked", "soft")
        numbers = ["&ndash;"] * 3
        if t.probes:
            numbers = [f"{t.relative_error:.1e}", f"{t.cosine:.4f}", f"{t.norm_ratio:.4g}"]
        cells = "".join(f"<td>{cell}</td>" for cell in (*numbers, t.probes, t.kinks))
        rows.append(f'<tr><td><code>{escape(t.name)}</code></td>{cells}<td class="{kind}">{status}</td></tr>')
    heads = "".join(f"<th>{name}</th>" for name in ("tensor", "relative error", "cosine", "norm ratio", "probes",
                                                    "kinks", "gradient"))
    notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in checked.notes)
    return (f'<h2>Gradients against differences of the loss</h2>\n<div class="scroll"><table><tr>{heads}</tr>'
            f'{"".join(rows)}</table></div>{notes}')
