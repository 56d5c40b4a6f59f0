"""The figures of a report: plotly's descriptions of them, each with the sentence that says what to see.

Colours are mid-tones that stand on light and on dark; text, axes and grid take theirs from the page's
style. A figure that has nothing to show is its sentence alone.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import numpy as np
import plotly.graph_objects as go

from search import analysis
from search.analysis import Effect, Floats, Integers, LayerEffects
from search.candidates import Status
from search.cli.report.findings import Findings
from search.cli.report.wording import THIN, count, counted, duration, escaped, loss, points, reason, share

BLUE, RED, AMBER = "#4a86c0", "#c2543d", "#c39a4a"
GREYS = ("#6f6f6c", "#92928e", "#b0b0ab", "#7f7a72", "#a39e95")  # what falls out of the sieve
FAINT = "rgba(128,128,128,0.3)"
TEN = (  # seven mid-tones for the best ten; the last three are the first ones again, dotted
    "#4a86c0", "#c2543d", "#3f9b7a", "#c39a4a", "#8b6bb1", "#5aa9c9", "#b8688f",
)  # fmt: skip
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
BINS = 40
ACCURACY = {"tickformat": ".1~%", "minallowed": -0.02, "maxallowed": 1.02}  # of an axis: room for a marker
MOST_TIMES = 500  # moments of a line
FEWEST = 10  # candidates on each side of a comparison at a position


@dataclass(frozen=True)
class Figure:
    """A figure: what plotly draws, and what is said of it."""

    name: str  # its anchor
    title: str
    says: str  # one sentence, plain text: what to see
    spec: str | None  # plotly's JSON; None: there is nothing to draw
    height: int = 0  # pixels
    filtered: str | None = None  # the scatter plots: which cost, so that the page draws its points


def draw(found: Findings) -> dict[str, Figure]:
    """All figures, by name."""
    figures = (
        sieve(found),
        reasons(found),
        progress(found),
        over_time(found),
        best_so_far(found),
        accuracies(found),
        losses(found),
        against(found, "parameters", "parameters", found.trained.parameters, found.parameters_front),
        against(found, "macs", "multiply-adds per image", found.trained.macs, found.macs_front),
        effects(found),
        positions(found),
        curves(found),
    )
    return {figure.name: figure for figure in figures}


# ------------------------------------------------------------------ what they share


def _axis(title: str | None = None, **more: Any) -> dict[str, Any]:
    text = {"text": title, "standoff": 8} if title else None
    return {"title": text, "fixedrange": True, "zeroline": False, "automargin": True, "ticks": "outside", "ticklen": 4,
            "gridcolor": FAINT, "linecolor": FAINT, "tickcolor": FAINT, **more}  # fmt: skip


def _spec(traces: Sequence[Any], height: int, x: dict[str, Any], y: dict[str, Any], **more: Any) -> str:
    """A figure as JSON; plotly refuses what is no figure."""
    layout = {
        "height": height, "autosize": True, "xaxis": x, "yaxis": y, "dragmode": False, "hovermode": "closest",
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8, "pad": 2}, "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)", "bargap": 0.08, "showlegend": False,
        "font": {"family": SANS, "size": 12, "color": "#777"},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "itemclick": False,
                   "itemdoubleclick": False, "bgcolor": "rgba(0,0,0,0)"},
        "hoverlabel": {"bgcolor": "#23252a", "bordercolor": "#23252a", "align": "left",
                       "font": {"color": "#f4f2ee", "family": SANS}},
        "template": None,
        **more,
    }  # fmt: skip
    return str(go.Figure(data=list(traces), layout=layout).to_json(validate=True, engine="json"))


def _whole(most: int) -> dict[str, Any]:
    """Ticks of an axis of whole numbers up to ``most``."""
    return {"tickformat": ",d", **({"dtick": 1} if most < 10 else {})}


def _nothing(
    name: str, title: str, why: str = "No candidate has completed yet, so there is nothing to show."
) -> Figure:
    return Figure(name, title, why, None)


# ------------------------------------------------------------------ the sieve and the draws


def sieve(found: Findings) -> Figure:
    """How many of those drawn are left at each step, and what falls out."""
    counts, title = found.standing.counts, "The sieve"
    if not counts.drawn:
        return _nothing("sieve", title, "Nothing has been drawn yet.")
    rejected: dict[str, int] = {}
    for row in found.failures:
        if row.status is Status.REJECTED:
            rejected[str(row.reason)] = rejected.get(str(row.reason), 0) + row.candidates
    valid = counts.distinct - counts.rejected
    grey = iter(GREYS * 4)
    left = {"drawn": counts.drawn, "distinct": counts.distinct, "valid": valid, "completed": counts.completed}
    segments = [
        ("drawn", "distinct", counts.distinct, BLUE),
        ("drawn", "drawn before", counts.repeats, GREYS[0]),
        ("distinct", "valid", valid, BLUE),
        *(("distinct", f"rejected: {reason(name)}", number, next(grey)) for name, number in rejected.items()),
        ("valid", "completed", counts.completed, BLUE),
        ("valid", "failed", counts.failed, RED),
        ("valid", "open", counts.open, AMBER),
        ("completed", "completed", counts.completed, BLUE),
    ]
    traces = [
        go.Bar(
            y=[f"{row}<br>{count(left[row])}"],
            x=[number], orientation="h", marker={"color": colour, "line": {"width": 0}},
            hovertemplate=f"{escaped(what)}: {count(number)} ({share(number / counts.drawn)} of draws)<extra></extra>",
            text=[what if what != row else ""] if number > 0.12 * counts.drawn else None,
            textposition="inside", insidetextanchor="middle", textangle=0, constraintext="inside",
            insidetextfont={"color": "white", "size": 11},
        )
        for row, what, number, colour in segments if number
    ]  # fmt: skip
    most = max(rejected, key=lambda name: rejected[name], default=None)
    says = (
        f"{counted(counts.drawn, 'draw')} gave {counted(counts.distinct, 'distinct string')}, {count(valid)} of them "
        f"valid ({share(valid / counts.distinct)}), and {counted(counts.completed, 'completed training')}"
        + (f"; most rejections are for {reason(most)} ({share(rejected[most] / counts.rejected)})." if most else ".")
    )
    y = _axis(autorange="reversed", showgrid=False, ticks="")
    return Figure(
        "sieve",
        title,
        says,
        _spec(traces, 230, _axis("candidates", **_whole(counts.drawn)), y, barmode="stack", bargap=0.3),
        230,
    )


def reasons(found: Findings) -> Figure:
    """Where in their strings candidates are rejected, by reason."""
    title = "Rejections by layer"
    rows = [row for row in found.failures if row.status is Status.REJECTED]
    if not rows:
        return _nothing("reasons", title, "No candidate has been rejected.")
    rows.sort(key=lambda row: (row.reason, -1 if row.layer is None else row.layer))
    traces = []
    for colour, (name, group) in zip((*TEN,) * 2, groupby(rows, lambda row: row.reason), strict=False):
        members = list(group)
        at = ["whole" if row.layer is None else str(row.layer) for row in members]
        height = [row.candidates for row in members]
        traces.append(
            go.Bar(x=at, y=height, name=reason(name), marker={"color": colour, "line": {"width": 0}},
                   hovertemplate=f"{escaped(reason(name))} at layer %{{x}}: %{{y:,}}<extra></extra>")
        )  # fmt: skip
    total = sum(row.candidates for row in rows)
    most = max(rows, key=lambda row: row.candidates)
    where = "for the whole network" if most.layer is None else f"at layer {most.layer} (counted from 0)"
    says = (
        f"Of {counted(total, 'rejection')}, the largest part falls {where}, for {reason(str(most.reason))}: "
        f"{count(most.candidates)} ({share(most.candidates / total)})."
    )
    places = sorted({row.layer for row in rows if row.layer is not None})
    order = [*map(str, places), *(["whole"] if any(row.layer is None for row in rows) else [])]
    x = _axis("failing layer, from 0", type="category", categoryorder="array", categoryarray=order)
    spec = _spec(traces, 300, x, _axis("candidates", rangemode="tozero"), barmode="stack", showlegend=True)
    return Figure("reasons", title, says, spec, 300)


def progress(found: Findings) -> Figure:
    """What became of the draws, in their order."""
    counts, title = found.standing.counts, "Progress through the draws"
    if not found.stretches:
        return _nothing("progress", title, "Nothing has been drawn yet.")
    length = found.stretches[0].stop - found.stretches[0].first
    x = [(stretch.first + stretch.stop) / 2 for stretch in found.stretches]
    spans = [f"draws {count(s.first)} to {count(s.stop - 1)}" for s in found.stretches]
    kinds = (
        (Status.COMPLETED, BLUE), (Status.FAILED, RED), (Status.OPEN, AMBER),
        (Status.REJECTED, "rgba(128,128,128,0.6)"),
    )  # fmt: skip
    series = [(status.value, [s.statuses[status] for s in found.stretches], colour) for status, colour in kinds]
    series.append(("drawn before", [s.stop - s.first - sum(s.statuses.values()) for s in found.stretches], FAINT))
    traces = [
        go.Bar(x=x, y=y, width=length, name=name, customdata=spans, marker={"color": colour, "line": {"width": 0}},
               hovertemplate=f"{name}: %{{y:,}} of %{{customdata}}<extra></extra>")
        for name, y, colour in series if any(y)
    ]  # fmt: skip
    ended = counts.completed + counts.failed
    valid = ended + counts.open
    says = (
        f"{count(counts.drawn)} of {counted(counts.target, 'candidate')} are drawn "
        f"({share(counts.drawn / counts.target)}), "
        f"and of the {count(valid)} valid ones {count(ended)} have ended ({share(ended / valid if valid else None)}); "
        f"each bar is {counted(length, 'draw')}."
    )
    axis = _axis("index of the draw", showgrid=False, **_whole(counts.drawn))
    spec = _spec(traces, 260, axis, _axis("candidates"), barmode="stack", bargap=0, showlegend=True)
    return Figure("progress", title, says, spec, 260)


def over_time(found: Findings) -> Figure:
    """How many candidates had completed by the clock; pauses between runs are flat."""
    title, ended = "Progress over time", np.sort(found.trained.ended[np.isfinite(found.trained.ended)])
    if not len(ended):
        return _nothing("over-time", title, "No candidate has completed whose time was recorded.")
    shown = np.unique(np.linspace(0, len(ended) - 1, MOST_TIMES).astype(np.int64))
    moments = [datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S") for at in ended[shown].tolist()]
    trace = go.Scatter(x=moments, y=(shown + 1).tolist(), mode="lines", line={"shape": "hv", "color": BLUE, "width": 2},
                       hovertemplate="%{y:,} completed by %{x}<extra></extra>")  # fmt: skip
    took = float(ended[-1] - ended[0])
    untold = len(found.trained) - len(ended)
    says = (
        f"{counted(len(ended), 'candidate')} completed within {duration(took)}"
        + (f", {(len(ended) - 1) / took * 60:.1f} a minute on average, pauses included" if took > 0 else "")
        + (f"; of {count(untold)} more the time was not recorded" if untold else "")
        + "."
    )
    spec = _spec([trace], 260, _axis("UTC", type="date", showgrid=False), _axis("completed", rangemode="tozero"))
    return Figure("over-time", title, says, spec, 260)


# ------------------------------------------------------------------ what was reached


def best_so_far(found: Findings) -> Figure:
    """The best accuracy against the training that it took, in draw order."""
    title, trained = "Best so far", found.trained
    if not len(trained):
        return _nothing("best-so-far", title)
    spent = np.cumsum(np.nan_to_num(trained.seconds))
    total = float(spent[-1])
    unit, size = ("hours", 3600) if total >= 7200 else ("minutes", 60) if total >= 120 else ("seconds", 1)
    steps = found.steps
    x = [*(spent[steps] / size).tolist(), total / size]
    y = [*trained.val_accuracy[steps].tolist(), float(trained.val_accuracy[steps[-1]])]
    texts = [
        f"<b>{share(trained.val_accuracy[s])}</b> at draw {count(trained.index[s])}<br>"
        + hover(found.strings[int(trained.index[s])])
        for s in steps
    ]
    traces = [
        go.Scatter(x=x, y=y, mode="lines", line={"shape": "hv", "color": BLUE, "width": 2}, hoverinfo="skip"),
        go.Scatter(x=x[:-1], y=y[:-1], mode="markers", marker={"color": BLUE, "size": 8}, text=texts,
                   hovertemplate="%{text}<extra></extra>"),
    ]  # fmt: skip
    last = int(steps[-1])
    says = (
        f"In {counted(len(trained), 'completed candidate')}, {duration(total)} of training summed in draw order, the "
        "best accuracy "
        f"rose in {counted(len(steps), 'step')}, the last to {share(trained.val_accuracy[last])} by the candidate of "
        "draw "
        f"{count(trained.index[last])}, after {share(float(spent[last]) / total if total else None)} of the training "
        "time."
    )
    spec = _spec(traces, 300, _axis(f"{unit} of training", rangemode="tozero", showgrid=False),
                 _axis("best accuracy", **ACCURACY))  # fmt: skip
    return Figure("best-so-far", title, says, spec, 300)


def accuracies(found: Findings) -> Figure:
    """How final validation accuracy is distributed."""
    title, values = "Accuracy", found.trained.val_accuracy
    if not len(values):
        return _nothing("accuracy", title)
    binned = analysis.histogram(values, BINS, low=0.0, high=1.0)
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    centres = [(a + b) / 2 for a, b in zip(binned.edges, binned.edges[1:], strict=False)]
    spans = [f"{share(a)} to {share(b)}" for a, b in zip(binned.edges, binned.edges[1:], strict=False)]
    bars = go.Bar(x=centres, y=binned.counts, width=1 / BINS, customdata=spans,
                  marker={"color": BLUE, "line": {"width": 0}},
                  hovertemplate="%{y:,} candidates with %{customdata}<extra></extra>")  # fmt: skip
    says = (
        f"Half of the {count(len(values))} completed candidates lie between {share(low)} and {share(high)}, the median "
        f"at {share(middle)}; {share(float((values >= 0.9).mean()))} of them reach 90{THIN}%."
        if len(values) > 1
        else f"The one completed candidate reaches {share(middle)}."
    )
    x = _axis("validation accuracy", tickformat=".0%", dtick=0.25, range=[0, 1], showgrid=False)
    return Figure("accuracy", title, says, _spec([bars], 260, x, _axis("candidates")), 260)


def losses(found: Findings) -> Figure:
    """How final losses are distributed."""
    title, trained = "Loss", found.trained
    pair = {"validation": trained.val_loss, "training": trained.train_loss}
    pair = {name: values[np.isfinite(values)] for name, values in pair.items()}
    if not len(pair["validation"]):
        return _nothing("loss", title)
    everything = np.concatenate(list(pair.values()))
    low = max(float(everything.min()), 1e-6)
    high = max(float(everything.max()), low)
    low = min(low, high / 10)
    traces = []
    for (name, values), colour in zip(pair.items(), (BLUE, AMBER), strict=True):
        binned = analysis.histogram(values, BINS, low=low, high=high, logarithmic=True)
        spans = [f"{a:.3g} to {b:.3g}" for a, b in zip(binned.edges, binned.edges[1:], strict=False)]
        traces.append(
            go.Scatter(x=binned.edges, y=[*binned.counts, binned.counts[-1]], name=name, customdata=[*spans, spans[-1]],
                       mode="lines", line={"shape": "hv", "color": colour, "width": 2},
                       hovertemplate=f"{name}: %{{y:,}} candidates with %{{customdata}}<extra></extra>")
        )  # fmt: skip
    chance = float(np.log(found.search.settings.space.classes))
    middle = {name: float(np.median(values)) for name, values in pair.items() if len(values)}
    says = (
        f"The median loss of {counted(len(pair['validation']), 'completed candidate')} is "
        f"{loss(middle.get('training'))} in training "
        f"and {loss(middle['validation'])} in validation; {share(float((pair['validation'] >= chance).mean()))} "
        f"do no better in validation than guessing evenly ({loss(chance)})."
    )
    x = _axis("cross-entropy", type="log", showgrid=False, tickformat="~g", **_decades(low, high))
    return Figure(
        "loss", title, says, _spec(traces, 260, x, _axis("candidates", rangemode="tozero"), showlegend=True), 260
    )


def _decades(low: float, high: float) -> dict[str, Any]:
    """Ticks of a logarithmic axis: 1, 2, 5 where there are few decades, else each decade."""
    return {"dtick": "D2"} if high / low < 100 else {"dtick": 1}


# ------------------------------------------------------------------ cost


def against(found: Findings, name: str, what: str, cost: Floats, front: Integers) -> Figure:
    """Accuracy against a cost, with the Pareto front. The page draws the points, so that it can filter them."""
    title, accuracy = f"Accuracy against {what}", found.trained.val_accuracy
    if not len(front):
        return _nothing(name, title)
    line = go.Scatter(x=cost[front].tolist(), y=accuracy[front].tolist(), mode="lines", hoverinfo="skip",
                      line={"shape": "hv", "color": RED, "width": 1.5})  # fmt: skip
    template = "%{text}<extra></extra>"
    others = go.Scatter(x=[], y=[], text=[], mode="markers", hovertemplate=template, name="completed candidate",
                        marker={"color": BLUE, "size": 5, "opacity": 0.65})  # fmt: skip
    best = go.Scatter(x=[], y=[], text=[], mode="markers", hovertemplate=template, name="on the Pareto front",
                      marker={"color": RED, "size": 8})  # fmt: skip
    line.showlegend = False
    known = np.isfinite(cost)
    rho = analysis.rank_correlation(cost[known], accuracy[known])
    first, last = front[0], front[-1]
    says = (
        f"Of {counted(int(known.sum()), 'completed candidate')}, "
        + (
            f"{count(len(front))} are on the Pareto front, from "
            if len(front) > 1
            else "one is the whole Pareto front: "
        )
        + f"{share(accuracy[first])} with {count(cost[first])} {what}"
        + (f" to {share(accuracy[last])} with {count(cost[last])}" if len(front) > 1 else "")
        + (
            f"; over all, Spearman’s rank correlation of accuracy and {what} is {_signed(rho)}."
            if rho is not None
            else "."
        )
    )
    cheapest, dearest = float(cost[known].min()), float(cost[known].max())
    margin = 0.05 * max(1.0, math.log10(dearest / cheapest))
    x = _axis(what, type="log", tickformat="~s", **_decades(cheapest, dearest),
              range=[math.log10(cheapest) - margin, math.log10(dearest) + margin])  # fmt: skip
    low, high = float(accuracy[known].min()), float(accuracy[known].max())
    y = _axis("validation accuracy", **ACCURACY, range=[max(low - 0.03, -0.02), min(high + 0.03, 1.02)])
    spec = _spec([line, others, best], 420, x, y, showlegend=True)
    return Figure(name, title, says, spec, 420, filtered=name)


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


# ------------------------------------------------------------------ effects


def _label(item: LayerEffects) -> str:
    return escaped(item.feature.value) if item.feature.value else f"<b>{escaped(item.feature.kind)}</b>"


def effect_words(item: Effect) -> str:
    """An effect in words: difference, interval, both means, both n."""
    if item.difference is None:
        return f"no comparison: n = {count(item.having.n)} with, {count(item.lacking.n)} without"
    interval = "" if item.low is None else f" (95 % interval {points(item.low)} to {points(item.high)})"
    return (
        f"{points(item.difference)} points{interval}; with: {share(item.having.mean)}, n = {count(item.having.n)}; "
        f"without: {share(item.lacking.mean)}, n = {count(item.lacking.n)}"
    )


def effects(found: Findings) -> Figure:
    """Mean accuracy with each feature, less that without it."""
    title = "With and without each layer"
    items = [item for item in found.effects if item.anywhere.low is not None and item.anywhere.high is not None]
    if not items:
        why = (
            "A comparison needs two completed candidates with and two without a layer, not all of one accuracy on "
            "either side; there are none such yet."
        )
        return _nothing("effects", title, why)
    rows = {id(item): place for place, item in enumerate(items)}
    traces = []
    for chosen, size, width in (
        ([item for item in items if item.feature.value is None], 10, 2.5),
        ([item for item in items if item.feature.value is not None], 7, 1.5),
    ):
        middle = [100 * (item.anywhere.difference or 0) for item in chosen]
        traces.append(
            go.Scatter(
                x=middle, y=[rows[id(item)] for item in chosen], mode="markers",
                marker={"size": size, "color": [BLUE if item.anywhere.is_clear else GREYS[1] for item in chosen]},
                error_x={
                    "type": "data", "symmetric": False, "thickness": width, "width": 0, "color": GREYS[1],
                    "array": [100 * (item.anywhere.high or 0) - m for item, m in zip(chosen, middle, strict=True)],
                    "arrayminus": [m - 100 * (item.anywhere.low or 0) for item, m in zip(chosen, middle, strict=True)],
                },
                text=[_wrapped(f"{item.feature.label}: {effect_words(item.anywhere)}") for item in chosen],
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    ordered = sorted(items, key=lambda item: item.anywhere.difference or 0)
    low, high = ordered[0], ordered[-1]
    says = (
        f"Strings with “{high.feature.label}” have the largest advantage over those without, {_brief(high.anywhere)}, "
        "and "
        f"those with “{low.feature.label}” the smallest, {_brief(low.anywhere)}; bars are 95{THIN}% intervals (Welch)."
    )
    height = 70 + 24 * len(items)
    y = _axis(tickmode="array", tickvals=list(range(len(items))), ticktext=[_label(item) for item in items],
              range=[len(items) - 0.4, -0.6], ticks="", showgrid=False)  # fmt: skip
    x = _axis("percentage points", zeroline=True, zerolinecolor=GREYS[0])
    return Figure("effects", title, says, _spec(traces, height, x, y), height)


def _brief(item: Effect) -> str:
    return (
        f"{points(item.difference)} points ({points(item.low)} to {points(item.high)}; n = {count(item.having.n)} "
        "with, "
        f"{count(item.lacking.n)} without)"
    )


def _is_told(item: Effect) -> bool:
    return min(item.having.n, item.lacking.n) >= FEWEST


def positions(found: Findings) -> Figure:
    """Mean accuracy with a feature at a position, less that of strings with another layer there."""
    title = "By position"
    items = [item for item in found.effects if any(map(_is_told, item.at))]
    if not items:
        why = (
            f"A comparison at a position needs {FEWEST} completed candidates on each side; there are not that many yet."
        )
        return _nothing("positions", title, why)
    width = max(place + 1 for item in items for place, at in enumerate(item.at) if _is_told(at))
    z = [[100 * (at.difference or 0) if _is_told(at) else None for at in item.at[:width]] for item in items]
    texts = [
        [
            _wrapped(f"{item.feature.label} at position {place}: {effect_words(at)}")
            for place, at in enumerate(item.at[:width])
        ]
        for item in items
    ]
    known = [at for item in items for at in item.at if _is_told(at)]
    clear = [at for at in known if at.is_clear]
    most = max(abs(value) for row in z for value in row if value is not None) or 1.0
    trace = go.Heatmap(
        z=z, x=list(range(width)), y=list(range(len(items))), text=texts, hovertemplate="%{text}<extra></extra>",
        zmin=-most, zmax=most, xgap=2, ygap=2, hoverongaps=False,
        colorscale=[[0, RED], [0.5, "rgba(128,128,128,0.1)"], [1, BLUE]],
        colorbar={"thickness": 10, "len": 0.5, "y": 1, "yanchor": "top", "outlinewidth": 0, "ticks": "", "x": 1.01},
    )  # fmt: skip
    ranked = [
        (at.difference or 0, item, place)
        for item in items
        for place, at in enumerate(item.at)
        if _is_told(at) and at.is_clear
    ]
    by_chance = f", where about {count(0.05 * len(known))} would if nothing mattered" if not found.is_listed else ""
    says = (
        f"Of {counted(len(known), 'comparison')} of a layer at a position, those with {FEWEST} candidates or more on "
        f"each side, {count(len(clear))} have a 95{THIN}% interval without zero{by_chance}"
    )
    if ranked:
        value, item, place = max(ranked, key=lambda entry: abs(entry[0]))
        at = item.at[place]
        says += (
            f"; the largest is {points(value)} points for “{item.feature.label}” at position {place} "
            f"(n = {count(at.having.n)} there, {count(at.lacking.n)} with another layer there)"
        )
    height = 80 + 22 * len(items)
    y = _axis(tickmode="array", tickvals=list(range(len(items))), ticktext=[_label(item) for item in items],
              autorange="reversed", ticks="", showgrid=False)  # fmt: skip
    x = _axis("position, from 0", dtick=1, showgrid=False, ticks="")
    return Figure("positions", title, says + ".", _spec([trace], height, x, y), height)


def hover(layers: str) -> str:
    """A layer string for a hover label: a layer a line, plotly's own marks taken for text."""
    return "<br>".join(escaped(f"{layer}-") for layer in layers.removesuffix("-").split("-"))


def _wrapped(text: str) -> str:
    return "<br>".join(escaped(part) for part in text.replace(": ", ":\n", 1).replace("; ", ";\n").splitlines())


# ------------------------------------------------------------------ the best


def curves(found: Findings) -> Figure:
    """Validation loss of the best candidates after each epoch."""
    title = "Loss curves of the best"
    best = [details for details in found.best if details.curve]
    if not best:
        return _nothing("curves", title)
    traces = []
    for rank, details in enumerate(best, 1):
        values = [val_loss for _, val_loss, _ in details.curve]
        texts = [
            f"<b>{rank}</b>, epoch {epoch}: training loss {loss(a)}, validation loss {loss(b)}, accuracy {share(c)}<br>"
            + hover(details.candidate.layers)
            for epoch, (a, b, c) in enumerate(details.curve, 1)
        ]
        dash = "solid" if rank <= len(TEN) else "dot"
        traces.append(
            go.Scatter(x=list(range(1, len(values) + 1)), y=values, mode="lines+markers", name=str(rank), text=texts,
                       line={"color": TEN[(rank - 1) % len(TEN)], "width": 1.6, "dash": dash},
                       marker={"size": 4}, hovertemplate="%{text}<extra></extra>")
        )  # fmt: skip
    the_best = f"the best {len(best)} are" if len(best) > 1 else "the best is"
    rising = sum(1 for details in best if details.curve[-1][1] > min(row[1] for row in details.curve) * 1.05)
    says = (
        f"After the first epoch {the_best} at a validation loss of "
        f"{_range(details.curve[0][1] for details in best)}, after the last at "
        f"{_range(details.curve[-1][1] for details in best)}; "
        f"{count(rising)} of {count(len(best))} end more than 5{THIN}% above their own lowest loss."
    )
    x = _axis("epoch", showgrid=False, tickformat="d", **({"dtick": 1} if len(best[0].curve) <= 12 else {}))
    spec = _spec(traces, 340, x, _axis("validation loss"), showlegend=True)
    return Figure("curves", title, says, spec, 340)


def _range(values: Iterable[float]) -> str:
    known = list(values)
    low, high = loss(min(known)), loss(max(known))
    return f"{low} to {high}" if low != high else low
