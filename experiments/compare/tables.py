"""The comparison as Markdown, in the layout of the paper's tables: a row per method, a column per subset, then
Average and Last-1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.compare.extras import EACH


def markdown(summary: Mapping[str, Any]) -> str:
    """All tables, in percent, mean ± standard deviation over seeds; no word of praise that an interval does not
    carry."""
    budget, methods = summary["budget"], summary["methods"]
    asked = (
        ""
        if not budget["minutes"]
        else (
            f" ({budget['minutes']:g} minutes of SGMA at {budget['seconds_per_step']:.3g} s a step on "
            f"{budget['machine']})"
        )
    )
    code = " and ".join(summary["code"])  # of all runs that count
    head = (
        f"mIoU (%) on {summary['split']} ({summary['records']} tiles), every method after {budget['steps']} "
        f"steps{asked}, code {code}."
    )
    parts = [
        head,
        _scores(summary),
        _differences(summary),
        _falls(methods),
        _sampling(methods),
        _failures(methods),
        _separability(methods),
        _robustness(methods),
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
        rows.append(
            [name, str(len(method["seeds"])), *scores, *ends, *(_percent(method["expected"][p]) for p in probabilities)]
        )
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
    note = (
        f"Intervals: bootstrap over {intervals['over']}, {intervals['resamples']} resamples; with one seed they speak "
        f"of these networks only."
    )
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
            rows += [
                [name, run.split("/")[-1], step, ", ".join(f"{m} {100 * p:.1f}" for m, p in at.items())]
                for step, at in at_steps.items()
            ]
    return table(["method", "seed", "step", "MAS draws (%)"], rows) if rows else ""


def _failures(methods: Mapping[str, Any]) -> str:
    looked_at = _with("failures", methods)
    rows = []
    kinds: list[str] = []
    for name, found in looked_at.items():
        for sensor, by_kind in found["sensors"].items():
            kinds = list(by_kind)
            ends = [
                _percent(found[end], bold=end == "in_part") if sensor == EACH else "" for end in ("in_part", "clean")
            ]
            rows.append(
                [name, str(len(found["seeds"])), sensor, *(_percent(of_kind) for of_kind in by_kind.values()), *ends]
            )
    heads = [
        "method",
        "seeds",
        "what fails",
        *(kind.replace("_", " ") for kind in kinds),
        "all that fails in part",
        "nothing fails",
    ]
    note = "mIoU (%) of all sensors together while one fails, mean over the levels of the failure."
    return f"{note}\n\n{table(heads, rows)}" if rows else ""


def _separability(methods: Mapping[str, Any]) -> str:
    rows = []
    strides: list[str] = []
    for name, found in _with("separability", methods).items():
        for sensor, by_stride in found["silhouettes"].items():
            strides = list(by_stride)
            cells = [
                " > ".join(_number(pair[features], 2) for features in ("encoder", "fused"))
                for pair in by_stride.values()
            ]
            rows.append([name, str(len(found["seeds"])), sensor, *cells])
    note = (
        "Silhouette of the classes in each sensor's features: the encoder's > after fusion of that sensor alone; "
        "mean over seeds."
    )
    return f"{note}\n\n{table(['method', 'seeds', 'sensor', *(f'stride {s}' for s in strides)], rows)}" if rows else ""


def _robustness(methods: Mapping[str, Any]) -> str:
    rows = []
    for name, found in _with("robustness", methods).items():
        for stride, by_class in found["shares"].items():
            for of_class, shares in by_class.items():
                cell = (
                    ", ".join(f"{sensor} {_number(share, 0, 100)}" for sensor, share in shares.items())
                    if shares
                    else "-"
                )
                rows.append([name, str(len(found["seeds"])), stride, of_class, cell])
    note = "Robustness (%) where all sensors see, by the label's class; mean over seeds."
    return f"{note}\n\n{table(['method', 'seeds', 'stride', 'class', 'sensors'], rows)}" if rows else ""


def _with(what: str, methods: Mapping[str, Any]) -> dict[str, Any]:
    return {name: method[what] for name, method in methods.items() if what in method}


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(over_seeds: Mapping[str, Any], *, bold: bool = False) -> str:
    if over_seeds["mean"] is None:
        return "-"
    text = f"{100 * over_seeds['mean']:.2f}" + ("" if over_seeds["sd"] is None else f" ± {100 * over_seeds['sd']:.2f}")
    return f"**{text}**" if bold else text


def _number(over_seeds: Mapping[str, Any], digits: int, unit: float = 1.0) -> str:
    return "-" if over_seeds["mean"] is None else f"{unit * over_seeds['mean']:.{digits}f}"
