"""The comparison as Markdown, in the layout of the paper's tables: a row per method, a column per subset, then Average and Last-1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown(summary: Mapping[str, Any]) -> str:
    """All tables, in percent, mean ± standard deviation over seeds; no word of praise that an interval does not carry."""
    budget, methods = summary["budget"], summary["methods"]
    asked = "" if not budget["minutes"] else (
        f" ({budget['minutes']:g} minutes of SGMA at {budget['seconds_per_step']:.3g} s a step on {budget['machine']})")  # fmt: skip
    code = " and ".join(summary["code"])  # of all runs that count
    head = f"mIoU (%) on {summary['split']} ({summary['records']} tiles), every method after {budget['steps']} steps{asked}, code {code}."
    parts = [
        head,
        _scores(summary),
        _differences(summary),
        _falls(methods),
        _sampling(methods),
    ]
    if summary["not_done"]:
        parts.append(f"Not done: {', '.join(summary['not_done'])}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _scores(summary: Mapping[str, Any]) -> str:
    subsets = summary["subsets"]
    probabilities = list(next(iter(summary["methods"].values()))["expected"])
    heads = ["method", "seeds", *subsets, "Average", "Last-1", "Top-1", *(f"expected, p = {p}" for p in probabilities)]
    rows = []
    for name, method in summary["methods"].items():
        scores = [_percent(method["subsets"][subset]) for subset in subsets]
        ends = [_percent(method["average"], bold=True), _percent(method["last1"], bold=True), _percent(method["top1"])]
        rows.append([name, str(len(method["seeds"])), *scores, *ends, *(_percent(method["expected"][p]) for p in probabilities)])
    return table(heads, rows)


def _differences(summary: Mapping[str, Any]) -> str:
    if not summary["comparisons"]:
        return ""
    names = {"average": "Average", "last1": "Last-1"}
    rows = [
        [f"{c['method']} - {c['against']}", names[c["measure"]], str(c["seeds"]), f"{100 * c['difference']:+.2f}",
         f"{100 * c['low']:+.2f} to {100 * c['high']:+.2f}", c["verdict"]]
        for c in summary["comparisons"]
    ]  # fmt: skip
    intervals = summary["intervals"]
    interval = f"{100 * intervals['confidence']:g} % interval"
    note = f"Intervals: bootstrap over {intervals['over']}, {intervals['resamples']} resamples; with one seed they speak of these networks only."
    return table(["difference", "of", "seeds", "points", interval, "the first is"], rows) + "\n\n" + note


def _falls(methods: Mapping[str, Any]) -> str:
    rows = []
    for name, method in methods.items():
        pairs, falls = method["monotony"]["pairs"], method["monotony"]["falls"]["mean"]
        if pairs:
            share = f"{falls:.1f} of {pairs} ({100 * falls / pairs:.0f} %)"
            rows.append([name, share, f"{100 * method['monotony']['largest_fall']['mean']:.2f}"])
    return table(["method", "pairs A in B where B scores lower", "largest fall, points"], rows) if rows else ""


def _sampling(methods: Mapping[str, Any]) -> str:
    rows = []
    for name, method in methods.items():
        for run, at_steps in zip(method["runs"], method.get("sampling", []), strict=False):
            rows += [[name, run.split("/")[-1], step, ", ".join(f"{m} {100 * p:.1f}" for m, p in at.items())] for step, at in at_steps.items()]
    return table(["method", "seed", "step", "MAS draws (%)"], rows) if rows else ""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(over_seeds: Mapping[str, Any], *, bold: bool = False) -> str:
    if over_seeds["mean"] is None:
        return "-"
    text = f"{100 * over_seeds['mean']:.2f}" + ("" if over_seeds["sd"] is None else f" ± {100 * over_seeds['sd']:.2f}")
    return f"**{text}**" if bold else text
