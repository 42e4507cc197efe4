"""A diagnosis as one HTML page: no script, no network, its figures inside it."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

from .diagnosis import Diagnosis
from .gradients import GradientReport

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


def page(diagnosis: Diagnosis) -> str:
    """A whole document."""
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta name="color-scheme" content="light dark">\n<title>Diagnosis of a training</title>\n'
            f'<style>body {{ margin: 0; }}\n@media (prefers-color-scheme: dark) {{ body {{ background: #16191d; }} }}'
            f'</style>\n</head>\n<body>\n{fragment(diagnosis)}\n</body>\n</html>\n')


def fragment(diagnosis: Diagnosis, figures: bool = True) -> str:
    """What a notebook shows: the same without a document around it, and without figures where these cannot be drawn."""
    parts = [_head(diagnosis), *_findings(diagnosis), *_notes(diagnosis.notes)]
    if figures:
        parts += _figures(diagnosis)
    if diagnosis.gradients is not None:
        parts.append(_gradients(diagnosis.gradients))
    return f'<style>{STYLE}</style>\n<div class="xpdense">\n' + "\n".join(parts) + "\n</div>"


def _head(diagnosis: Diagnosis) -> str:
    count = len(diagnosis.findings)
    title = f"{count} thing{'s' if count > 1 else ''} wrong with this training" if count else "Nothing was found"
    rows = []
    for words, value in diagnosis.skills().items():
        width = 100.0 * min(1.0, value) if value > 0.0 else 0.0  # of NaN too
        kind = ' class="given"' if words == "as it is" and count else ""
        rows.append(f'<div>{words}</div><div class="track"><span{kind} style="width: {width:.1f}%"></span></div>'
                    f"<div>{value:.2f}</div>")
    skills = (f'<p class="soft">The skill on rows that the training did not see: 1 is perfect, 0 is what a constant '
              f'prediction gives.</p>\n<div class="skill">{"".join(rows)}</div>') if rows else ""
    took = f'<p class="soft">Examined in {diagnosis.seconds:.1f} s.</p>' if diagnosis.seconds > 0 else ""
    return f"<h1>{title}</h1>\n{skills}{took}"


def _findings(diagnosis: Diagnosis) -> list[str]:
    cards = []
    for number, finding in enumerate(diagnosis.findings, 1):
        experiment = diagnosis.experiment(finding)
        cards.append(
            f'<div class="finding"><h3><div>{number}. <code>{escape(finding.cause)}</code></div>'
            f'<span class="soft">sure to {100.0 * finding.confidence:.0f} %</span></h3>'
            f'<p class="soft">at <code>{escape(finding.where)}</code></p><p>{escape(finding.evidence)}</p>'
            + (f"<p><b>Experiment:</b> {experiment}</p>" if experiment else "")
            + (f"<p><b>Fix:</b> {escape(finding.fix)}</p>" if finding.fix else "") + "</div>")
    return ["<h2>Findings, worst first</h2>", *cards] if cards else []


def _notes(notes: tuple[str, ...]) -> list[str]:
    return ["<h2>Not examined</h2>", *(f"<p>{escape(note)}</p>" for note in notes)] if notes else []


def _figures(diagnosis: Diagnosis) -> list[str]:
    from ..plots import plot_layers, plot_losses

    parts = []
    if any(len(values) for values in diagnosis.losses.values()):
        parts += ["<h2>The loss</h2>", _image(plot_losses(diagnosis.losses), "Loss curves over the training")]
    if diagnosis.layers:
        parts += ["<h2>Parameters before the training</h2>",
                  _image(plot_layers(diagnosis.layers), "Histograms of each tensor's values")]
    return parts


def _image(figure: Any, words: str) -> str:
    """A figure as an SVG inside the page."""
    file = io.BytesIO()
    nobody = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nobody)
    return f'<img alt="{words}" src="data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _gradients(report: GradientReport) -> str:
    rows = []
    for t in report.tensors:
        verdict, kind = ("right", "good") if t.ok else ("wrong", "bad") if t.probes else ("not seen", "soft")
        numbers = ["&ndash;"] * 3
        if t.probes:
            numbers = [f"{t.relative_error:.1e}", f"{t.cosine:.4f}", f"{t.norm_ratio:.4g}"]
        cells = "".join(f"<td>{cell}</td>" for cell in (*numbers, t.probes, t.kinks))
        rows.append(f'<tr><td><code>{escape(t.name)}</code></td>{cells}<td class="{kind}">{verdict}</td></tr>')
    heads = "".join(f"<th>{name}</th>" for name in ("tensor", "relative error", "cosine", "norm ratio", "probes",
                                                    "kinks", "gradient"))
    notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in report.notes)
    return (f'<h2>Gradients, against differences of the loss</h2>\n<div class="scroll"><table><tr>{heads}</tr>'
            f'{"".join(rows)}</table></div>{notes}')
