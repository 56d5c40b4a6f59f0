"""The page of a report: words, tables and figures in one HTML file that asks nothing of a network.

What comes from the database is escaped where it enters HTML, and '<' where it enters a script; a policy in
the page's head forbids it to fetch anything. Plotly's script, 5 MB, is most of the file.
"""

import json
import platform
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from search.candidates import Status
from search.cli.report.figures import Figure
from search.cli.report.findings import BEST, MOST_DETAILS, MOST_POINTS, MOST_RUNS, Findings
from search.cli.report.wording import (
    THIN,
    breaking,
    count,
    counted,
    duration,
    escaped,
    loss,
    points,
    reason,
    share,
)
from search.layers import format_layer
from search.space import PRESETS
from storage.queries import State

FOLD = 68  # characters of a line of a command
PACKAGES = ("netsieve", "torch", "numpy", "ray", "sqlalchemy", "plotly")


def compose(found: Findings, figures: dict[str, Figure]) -> str:
    """The page as text."""
    here = files("search.cli.report")
    numbers = {name: place for place, name in enumerate(figures, 1)}
    sections = (_header, _searched, _sieved, _progressed, _reached, _cost, _effects, _best, _failed, _again)
    body = "\n".join("\n".join(section(found, Drawings(figures, numbers))) for section in sections)
    return Template((here / "page.html").read_text(encoding="utf-8")).substitute(
        title=escaped(f"{found.search.name} – netsieve"),
        css=(here / "page.css").read_text(encoding="utf-8"),
        js=(here / "page.js").read_text(encoding="utf-8"),
        body=body,
        data=_data(found, figures),
        plotly=get_plotlyjs(),
    )


class Drawings:
    """The figures in the order in which the page shows them, numbered as they are."""

    def __init__(self, figures: dict[str, Figure], numbers: dict[str, int]) -> None:
        self._figures = figures
        self._numbers = numbers

    def __call__(self, name: str) -> str:
        """A figure as HTML."""
        figure, number = self._figures[name], self._numbers[name]
        caption = f"<figcaption><b>Figure {number}. {escaped(figure.title)}.</b> {escaped(figure.says)}</figcaption>"
        if figure.spec is None:
            return f'<figure id="{name}">{caption}</figure>'
        filtered = f' data-filtered="{figure.filtered}"' if figure.filtered else ""
        picked = (
            f'<p class="note picked" id="picked-{figure.filtered}" aria-live="polite"></p>' if figure.filtered else ""
        )
        return (
            f'<figure id="{name}"><div class="plot" role="img" data-figure="{name}"{filtered} '
            f'style="min-height:{figure.height}px" aria-label="{escaped(f"{figure.title}. {figure.says}")}"></div>'
            f"{picked}{caption}</figure>"
        )


# ------------------------------------------------------------------ pieces


def _heading(anchor: str, text: str, level: int = 2) -> str:
    return f'<h{level} id="{anchor}"><a href="#{anchor}">{escaped(text)}</a></h{level}>'


def _paragraph(text: str, css: str = "") -> str:
    return f'<p class="{css}">{text}</p>' if css else f"<p>{text}</p>"


def _facts(pairs: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escaped(name)}</dt><dd>{value}</dd>" for name, value in pairs) + "</dl>"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]], numbers: frozenset[int], name: str = "") -> str:
    """A table of cells that are HTML already; ``numbers`` are the columns that stand to the right."""
    css = ['class="n"' if place in numbers else "" for place in range(len(titles))]
    head = "".join(f'<th scope="col" {c}>{escaped(title)}</th>' for title, c in zip(titles, css, strict=True))
    lines = "".join(
        "<tr>" + "".join(f"<td {c}>{cell}</td>" for cell, c in zip(row, css, strict=True)) + "</tr>" for row in rows
    )
    identity = f' id="{name}"' if name else ""
    return f'<div class="scroll"><table{identity}><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _folding(title: str, content: str) -> str:
    """What is shown when it is asked for, and on paper."""
    return f"<details><summary>{title}</summary>{content}</details>"


def _moment(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


# ------------------------------------------------------------------ the sections, in order

CONTENTS = (
    ("searched", "What was searched"),
    ("sieved", "The sieve"),
    ("progressed", "Progress"),
    ("reached", "What was reached"),
    ("cost", "Accuracy and cost"),
    ("layers", "What layers go with"),
    ("best", "The best"),
    ("failures", "Failures"),
    ("again", "How to do it again"),
)


def _header(found: Findings, _: Drawings) -> Iterator[str]:
    search, counts = found.search, found.standing.counts
    yield "<header>"
    yield f"<h1>{escaped(search.name)}</h1>"
    state = {
        State.FINISHED: "finished",
        State.RUNNING: "running: the numbers are of this moment",
        State.STOPPED: f"stopped ({escaped(found.standing.stopped_because)})",
    }[found.standing.state]
    yield _paragraph(
        f"A netsieve search, created {_moment(search.created_at)}; as of {_moment(found.at)} {state}.", "dateline"
    )
    valid = counts.distinct - counts.rejected
    space = escaped(search.settings.space.name)
    taken = (
        f"{counted(counts.target, 'string')} of a list, in its order, chosen by whoever made it, have been taken and "
        f"held against the rules of the space {space}"
        if found.is_listed
        else f"{counted(counts.target, 'small convolutional network')} have been drawn at random from the space {space}"
    )
    text = (
        f"{count(counts.drawn)} of {taken}; {count(valid)} distinct ones can be built, and {count(counts.completed)} "
        f"of these have been trained on {escaped(_dataset(found))}. "
    )
    if found.best:
        best = found.best[0].candidate
        text += (
            f"The best classifies {share(best.val_accuracy)} of the {count(_validation_images(found))} validation "
            "images "
            f"correctly, with {counted(best.parameters or 0, 'parameter')}."
        )
    else:
        text += "None has completed training yet, so there is no accuracy to report."
    yield _paragraph(text, "abstract")
    yield '<nav aria-label="Contents"><ol>'
    yield "".join(f'<li><a href="#{anchor}">{title}</a></li>' for anchor, title in CONTENTS)
    yield "</ol></nav>"
    yield (
        "<noscript><p>The figures are drawn by a script in this file, which your browser does not run; captions and "
        "tables say the same.</p></noscript>"
    )
    yield "</header>"


def _dataset(found: Findings) -> str:
    return found.search.settings.dataset


def _validation_images(found: Findings) -> int:
    recipe = found.search.settings.recipe
    return recipe.train_images - recipe.images_for_training


def _searched(found: Findings, _: Drawings) -> Iterator[str]:
    settings = found.search.settings
    space, recipe = settings.space, settings.recipe
    yield _heading("searched", "What was searched")
    rule = "; a convolution’s input may not have more channels than its side" if space.channels_within_side else ""
    budgets = [
        f"at most {count(limit)} {what}"
        for limit, what in (
            (space.max_parameters, "parameters"), (space.max_macs, "multiply-adds per image"),
            (space.max_activation_bytes, "bytes of activations per image"),
        ) if limit is not None
    ]  # fmt: skip
    network = (
        "a string of the list, of layers of any kind and number,"
        if found.is_listed
        else f"an ordered string of {count(space.min_layers)} to {count(space.max_layers)} layers, drawn "
        f"{'with' if space.replacement else 'without'} replacement from the {count(len(space.layers))} layers below,"
    )
    chosen = (
        "Candidate <i>i</i> is string <i>i</i> of the list, counted from 0."
        if found.is_listed
        else f"The sampler “{escaped(settings.sampler)}” draws candidate <i>i</i> as a pure function of the seed and "
        f"<i>i</i>{': each valid architecture once' if settings.sampler == 'census' else ''}."
    )
    yield _paragraph(
        f"A network is {network} on inputs of {space.input_shape} (channels × height × width) in "
        f"{count(space.classes)} classes; a linear classifier always "
        f"follows{rule}{'; ' if budgets else ''}{', '.join(budgets)}. {chosen}"
    )
    yield _paragraph(
        f"Each network is trained for {counted(recipe.epochs, 'epoch')} on {count(recipe.images_for_training)} images "
        "and validated on "
        f"{count(_validation_images(found))}, with plain SGD on cross-entropy, learning rate "
        f"{recipe.learning_rate:g}, batches of "
        f"{count(recipe.batch_size)}. Accuracies and losses here are those after the last epoch, on the validation "
        "images, which "
        "also choose the best: expect a little less on images that have not been looked at."
    )
    if found.is_listed:
        return
    layers = "".join(f"<li><code>{breaking(format_layer(layer))}</code></li>" for layer in space.layers)
    yield _folding(f"The {count(len(space.layers))} layers of the space", f'<ol start="0">{layers}</ol>')


def _sieved(found: Findings, figure: Drawings) -> Iterator[str]:
    yield _heading("sieved", "The sieve")
    yield _paragraph(
        "A string that cannot be built, or breaks a rule of the space, is rejected before it costs any training; the "
        "first layer "
        "that fails decides, and the reason is recorded."
    )
    yield figure("sieve")
    yield figure("reasons")
    rejections = [example for example in found.examples if example.status is Status.REJECTED]
    if rejections:
        yield _heading("rejections", "An example of each reason", 3)
        yield _examples(rejections, found.standing.counts.rejected)


def _examples(examples: Iterable[Any], total: int) -> str:
    bodies = []
    for example in examples:
        at = "" if example.layer is None else f" at layer {example.layer}"
        detail = f": {escaped(example.detail)}" if example.detail else ""
        bodies.append(
            f'<tbody><tr><td>{escaped(reason(example.reason))}</td><td class="n">{count(example.candidates)}</td>'
            f'<td class="n">{share(example.candidates / total if total else None)}</td></tr>'
            f'<tr><td class="under" colspan="3">draw {count(example.index)}{at}{detail}<br>'
            f"<code>{breaking(example.layers)}</code></td></tr></tbody>"
        )
    titles = "".join(f'<th scope="col" class="n">{title}</th>' for title in ("Candidates", "Share"))
    return f'<table><thead><tr><th scope="col">Reason</th>{titles}</tr></thead>{"".join(bodies)}</table>'


def _progressed(found: Findings, figure: Drawings) -> Iterator[str]:
    yield _heading("progressed", "Progress")
    yield figure("progress")
    yield figure("over-time")
    if not found.runs:
        yield _paragraph("No run of the search has begun.")
        return
    left_out = found.run_count - len(found.runs)
    last = f" The last {MOST_RUNS} are listed." if left_out else ""
    yield _paragraph(
        f"The completed candidates were {duration(float(np.nansum(found.trained.seconds)))} in training, all together; "
        f"there {'has' if found.run_count == 1 else 'have'} been {counted(found.run_count, 'run')}.{last}"
    )
    rows = []
    for run in found.runs:
        end = run.ended_at or run.seen_at
        if run.at_work:
            how = "at work"
        elif run.ended_at is None:
            how = "ended without a word"
        else:
            how = escaped(run.ending or "done")
        rows.append(
            (
                _moment(run.started_at),
                duration((end - run.started_at).total_seconds()),
                f"{escaped(run.host)}, process {run.pid}",
                how,
            )
        )
    yield _table(("Started", "Lasted", "Coordinator", "Ended"), rows, frozenset({1}))


def _reached(_: Findings, figure: Drawings) -> Iterator[str]:
    yield _heading("reached", "What was reached")
    yield figure("best-so-far")
    yield '<div class="pair">'
    yield figure("accuracy")
    yield figure("loss")
    yield "</div>"


def _cost(found: Findings, figure: Drawings) -> Iterator[str]:
    yield _heading("cost", "Accuracy and cost")
    total, shown = len(found.trained), len(found.shown)
    yield _paragraph(
        "A network is on the Pareto front when no other is at least as accurate at no more cost. Multiply-adds are "
        "those of "
        "convolutions and classifier for one image, forward."
    )
    if total:
        if shown < total:
            what = (
                f"The figures show {count(shown)} of the {count(total)} completed candidates: the fronts, the best "
                f"{BEST}, every raise "
                f"of the best so far, and an even sample of the others in draw order (at most {count(MOST_POINTS)} "
                "points). The filter "
                "looks at those; fronts, captions and effects are of all."
            )
        else:
            what = f"The figures show all {counted(total, 'completed candidate')}."
        yield _paragraph(
            f"{what} Point at a network for its layer string; click or tap it to keep the string below the figure.",
            "note",
        )
        yield (
            '<div class="filter" role="search"><label for="filter">Only networks with</label>'
            '<input id="filter" type="search" placeholder="channel_factor:4 maxpool" autocomplete="off" '
            'autocapitalize="off" spellcheck="false" '
            'aria-describedby="filtered"><output id="filtered" for="filter" aria-live="polite"></output></div>'
        )
    yield figure("parameters")
    yield figure("macs")


def _effects(found: Findings, figure: Drawings) -> Iterator[str]:
    yield _heading("layers", "What layers go with")
    yield _paragraph(
        "Mean validation accuracy of the completed candidates that have a layer, less the mean of those that do not "
        "(n = "
        f"{count(len(found.trained))}), with Welch’s 95{THIN}% interval."
    )
    yield _paragraph(_caution_about_a_list(found) if found.is_listed else _caution_about_draws(found))
    yield figure("effects")
    if found.effects and len(found.trained):
        rows = []
        for item in found.effects:
            at = item.anywhere
            interval = "–" if at.low is None else f"{points(at.low)} to {points(at.high)}"
            sides = [(share(m.mean if m.n else None), count(m.n)) for m in (at.having, at.lacking)]
            rows.append((escaped(item.feature.label), points(at.difference), interval, *sides[0], *sides[1]))
        titles = ("Layer", "Difference", "95\u202f% interval", "Mean with", "n with", "Mean without", "n without")
        more = (
            f"{counted(found.features_left_out, 'parameter value')} more left out." if found.features_left_out else ""
        )
        yield _folding("The numbers, in percentage points", _table(titles, rows, frozenset(range(1, 7))) + more)
    yield figure("positions")


def _caution_about_draws(found: Findings) -> str:
    """What effects in a random draw are not."""
    room = "" if found.search.settings.space.replacement else " Having one layer also leaves less room for the others."
    return (
        "These are associations in a random draw, not effects of adding a layer to a given network. Lengths and layers "
        "are drawn uniformly, but only strings that could be built are compared: "
        f"{count(found.standing.counts.rejected)} rejected ones are missing, so a layer that often makes a string "
        f"impossible is seen in the company that made it possible.{room} Of many such intervals one in twenty misses."
    )


def _caution_about_a_list(found: Findings) -> str:
    """What effects in a list are not."""
    rejected = found.standing.counts.rejected
    missing = (
        f" {counted(rejected, 'string')} of the list {'was' if rejected == 1 else 'were'} rejected and "
        f"{'is' if rejected == 1 else 'are'} missing."
        if rejected
        else ""
    )
    return (
        "These are associations within a list, not effects of adding a layer to a given network: a layer is seen in "
        "the company that whoever made the list chose for it. Nothing was drawn at random, so the intervals do not "
        f"generalise beyond it; they say how widely its strings differ.{missing}"
    )


def _best(found: Findings, figure: Drawings) -> Iterator[str]:
    yield _heading("best", "The best")
    if not found.best:
        yield _paragraph("No candidate has completed yet.")
        return
    number = len(found.best)
    yield _paragraph(
        f"The best {count(number)} of {counted(len(found.trained), 'completed candidate')}, by accuracy, then loss, "
        "then draw. "
        f"One of {count(_validation_images(found))} validation images is {share(1 / _validation_images(found), 2)}, "
        "so neighbours here may well be equals. "
        "The filter above also holds for this table."
    )
    yield _best_table(found)
    yield figure("curves")


def _best_table(found: Findings) -> str:
    titles = ("Rank", "Draw", "Accuracy", "Loss", "Para\u00admeters", "Multiply-adds")
    head = "".join(f'<th scope="col" class="n">{title}</th>' for title in titles)
    bodies = []
    for rank, details in enumerate(found.best, 1):
        row = details.candidate
        cells = (
            str(rank),
            count(row.index),
            share(row.val_accuracy),
            loss(row.val_loss),
            count(row.parameters or 0),
            count(row.macs or 0),
        )
        numbers = "".join(f'<td class="n">{cell}</td>' for cell in cells)
        bodies.append(
            f'<tbody><tr>{numbers}</tr><tr><td class="under" '
            f'colspan="6"><code>{breaking(row.layers)}</code></td></tr></tbody>'
        )
    return f'<div class="scroll"><table id="best-table"><thead><tr>{head}</tr></thead>{"".join(bodies)}</table></div>'


def _failed(found: Findings, _: Drawings) -> Iterator[str]:
    yield _heading("failures", "Failures")
    counts = found.standing.counts
    examples = [example for example in found.examples if example.status is Status.FAILED]
    ended = counts.completed + counts.failed
    if not examples:
        yield _paragraph(
            f"None of the {counted(ended, 'training')} that ended has failed."
            if ended
            else "No training has ended yet."
        )
    else:
        yield _paragraph(
            f"{count(counts.failed)} of {counted(ended, 'training')} that ended failed "
            f"({share(counts.failed / ended)}); the first of each reason:"
        )
        yield _examples(examples, counts.failed)
        if any(detail.detail for detail in found.details):
            yield _heading("details", "What they said", 3)
            rows = ((escaped(reason(d.reason)), escaped(d.detail or "–"), count(d.candidates)) for d in found.details)
            yield _table(("Reason", "Detail", "Candidates"), rows, frozenset({2}))
            if len(found.details) == MOST_DETAILS:
                yield _paragraph(f"The {MOST_DETAILS} most frequent.", "note")
    others = {ending: number for ending, number in found.attempts.items() if ending is not None}
    in_flight = found.attempts.get(None, 0)
    text = f"{counted(in_flight, 'attempt')} in flight" if in_flight else "No attempt in flight"
    if others:
        text += "; ended otherwise than by completing: " + ", ".join(
            f"{escaped(reason(str(e)))} {count(n)}" for e, n in sorted(others.items())
        )
    yield _paragraph(f"{text}.", "note")


def _again(found: Findings, _: Drawings) -> Iterator[str]:
    search, space = found.search, found.search.settings.space
    yield _heading("again", "How to do it again")
    preset = next((name for name, known in PRESETS.items() if known.digest() == space.digest()), None)
    file = f"{space.name}.toml"
    run = _run_again(found, preset or file)
    if found.is_listed:
        strings = f"{search.name}-strings.csv"
        export = {"columns": "layers", "out": strings, "db": found.database}
        run = "\n".join([_folded(["netsieve", "export", search.name], export), run])
        yield _paragraph(
            "The strings of the list that have been taken, each once and in its order, are exported from this "
            "database; the same settings, seed and data train them the same way:"
        )
    else:
        yield _paragraph(
            "The same settings, seed and data draw the same candidates in the same order and train them the same way:"
        )
    yield f"<pre>{escaped(run)}</pre>"
    if preset is None:
        yield _folding(f"{escaped(file)}, the search space", f"<pre>{escaped(space.to_toml())}</pre>")
    yield _paragraph("Questions to this database, a proof of what it holds, and going on:")
    yield f"<pre>{escaped(chr(10).join(_questions(found)))}</pre>"
    yield _facts(_provenance(found))
    yield _paragraph(
        "On the same processor model, thread count and torch version the numbers come out equal to the bit; elsewhere "
        "rounding differs, and training amplifies it.",
        "note",
    )
    writer = f"Written by netsieve {escaped(_version('netsieve'))}."
    yield f"<footer>{writer} The file holds its data and its scripts; it loads nothing.</footer>"


def _run_again(found: Findings, space: str) -> str:
    """The command that makes the search anew."""
    search, settings = found.search, found.search.settings
    recipe = settings.recipe
    source: dict[str, object] = {"candidates": found.standing.counts.target, "space": space}
    if found.is_listed:
        source = {"strings": f"{search.name}-strings.csv", "space": space}
    else:
        source["sampler"] = settings.sampler
        if settings.lengths:
            source["lengths"] = "{}-{}".format(*settings.lengths)
    options = {
        **source, "seed": settings.seed, "dataset": settings.dataset, "train-images": recipe.train_images,
        "epochs": recipe.epochs, "batch-size": recipe.batch_size, "learning-rate": recipe.learning_rate,
        "device": settings.device,
    }  # fmt: skip
    return _folded(["netsieve", "run", search.name], options)


def _questions(found: Findings) -> list[str]:
    """Commands that ask the database further."""
    name, best = found.search.name, found.best[0].candidate.index if found.best else 0
    asked = (("status", name), ("top", name), ("show", name, str(best)), ("db", "check", name), ("resume", name))
    return [shlex.join(["netsieve", *words, "--db", found.database]) for words in asked]


def _provenance(found: Findings) -> Iterator[tuple[str, str]]:
    """What the search was made of, and by, as facts."""
    search, settings = found.search, found.search.settings
    yield "search", f"{escaped(search.name)}, created {_moment(search.created_at)}"
    yield "created by", f"netsieve {escaped(search.netsieve_version)}"
    yield "database", f"<code>{escaped(found.database)}</code>"
    yield "space", f"{escaped(settings.space.name)}, SHA-256 <code>{settings.space.digest()}</code>"
    yield "sampler", f"{escaped(settings.sampler)}, version {settings.sampler_version}"
    yield "seed", str(settings.seed)
    yield "dataset", f"{escaped(settings.dataset)}, SHA-256 <code>{escaped(settings.dataset_sha256)}</code>"
    yield "device", escaped(settings.device)
    yield "training", f"version {settings.training_version}"
    yield "machines", escaped(", ".join(sorted({run.host for run in found.runs}))) or "none yet"
    yield from (("trained with", escaped(line)) for line in _trained_with(found))
    yield "this page", f"{_moment(found.at)}, {escaped(_versions())}"


def _trained_with(found: Findings) -> list[str]:
    """The versions that the runs recorded, each set of them once."""
    told = [", ".join(f"{name} {value}" for name, value in sorted(run.versions.items())) for run in found.runs]
    return sorted({line for line in told if line})


def _folded(command: Sequence[str], options: Mapping[str, object]) -> str:
    """A command over several lines of moderate length, an option with its value on one."""
    lines = [shlex.join(command)]
    for name, value in options.items():
        option = shlex.join([f"--{name}", str(value)])
        if len(lines[-1]) + len(option) < FOLD:
            lines[-1] += f" {option}"
        else:
            lines.append(f"    {option}")
    return " \\\n".join(lines)


def _versions() -> str:
    return ", ".join([*(f"{name} {_version(name)}" for name in PACKAGES), f"Python {platform.python_version()}"])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


# ------------------------------------------------------------------ what the script reads


def _data(found: Findings, figures: dict[str, Figure]) -> str:
    """Figures and points as JSON that no text in it can end: '<' is written as an escape."""
    trained = found.trained
    place_of: dict[str, int] = {}
    rows = []
    for place in found.shown.tolist():
        index = int(trained.index[place])
        texts = found.strings[index].removesuffix("-").split("-")
        numbers = (trained.parameters[place], trained.macs[place], trained.val_accuracy[place], trained.val_loss[place])
        codes = [place_of.setdefault(text, len(place_of)) for text in texts]
        rows.append([index, *map(_number, numbers), codes])
    data = {
        "best": BEST,
        "figures": {name: json.loads(figure.spec) for name, figure in figures.items() if figure.spec},
        "layers": list(place_of),
        "points": rows,
        "fronts": {
            "parameters": np.searchsorted(found.shown, found.parameters_front).tolist(),
            "macs": np.searchsorted(found.shown, found.macs_front).tolist(),
        },
    }
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _number(value: float) -> float | int | None:
    """A number as short as JSON allows."""
    if not np.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else round(float(value), 6)
