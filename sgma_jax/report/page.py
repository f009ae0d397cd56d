"""The whole page: one HTML file with its styles, script and pictures in it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from sgma_jax.report import figures
from sgma_jax.report.card import make_card
from sgma_jax.report.records import ReportedRun
from sgma_jax.show.tables import percent

PACKAGE = "sgma_jax.report"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Nothing is fetched, and nothing but the page's own script runs, whatever the names in a run's files say."""


def render_page(runs: Sequence[ReportedRun], scene_note: str = "") -> str:
    """The report of these runs, which `check_comparable` let pass. `scene_note` says which scenes were chosen, or
    why there are none."""
    environment = Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "subset_name": figures.subset_name,
        "hex": _hex,
        "data_link": _data_link,
    }
    script, style = (files(PACKAGE).joinpath(name).read_text(encoding="utf-8") for name in ("viewer.js", "style.css"))
    evaluation = runs[0].evaluation
    manifest = next((r.manifest for r in runs if r.manifest), None)
    return environment.get_template("page.html").render(
        title=" and ".join([", ".join(r.label for r in runs[:-1]), runs[-1].label]) if len(runs) > 1 else runs[0].label,
        runs=runs,
        cards=[make_card(r) for r in runs],
        evaluation=evaluation,
        sensors=evaluation.modalities,
        sensor_styles={s: figures.modality_style(evaluation.modalities, s) for s in evaluation.modalities},
        classes=evaluation.classes,
        palette=manifest.schema.palette if manifest else None,
        data_name=manifest.schema.name if manifest else None,
        figures=figures,
        scenes=_viewer_data(runs),
        scene_note=scene_note,
        script=Markup(script),
        style=Markup(style),
        policy=f"{POLICY}; script-src 'sha256-{_sha256(script)}'",
    )


def _viewer_data(runs: Sequence[ReportedRun]) -> dict[str, Any] | None:
    """Return the data that viewer.js switches between; the scenes are the same for all runs that have any."""
    shown = next((r.scenes for r in runs if r.scenes), ())
    if not shown:
        return None
    answers = [
        [{k: asdict(a) for k, a in r.scenes[i].answers.items()} if r.scenes else None for r in runs]
        for i in range(len(shown))
    ]
    return {
        "sensors": list(runs[0].evaluation.modalities),
        "runs": [r.label for r in runs],
        "scenes": [{**asdict(s.scene), "answers": a} for s, a in zip(shown, answers, strict=True)],
    }


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _hex(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{value:02x}" for value in colour)


def _data_link(text: str) -> str:
    return f"data:application/json;base64,{base64.b64encode(text.encode()).decode()}"
