"""WHAT to try: layer strings, the shape check, search spaces and their census, samplers and the coordinator.

    draw -> check -> record rejections -> dispatch in batches -> train -> record -> query

Read the files in the order of that flow:

    layers.py        the five kinds of layer: text form, output shape, parameters, multiply-adds
    layer_string.py  text <-> architecture; a malformed string names its position
    shapes.py        the checker: an architecture's shape trace, or its rejection with a reason
    space.py         what may be drawn and by which rules; presets and TOML files
    automaton.py     the checker compiled to a table, for whole batches
    census.py        exact counts, and the n-th valid architecture; permutation.py shuffles the n
    samplers.py      candidate i of a search, as a pure function of (space, seed, i)
    sieve.py         draw and check: from indices to candidates, for the store
    forecast.py      how many distinct and valid candidates a search will draw
    candidates.py    statuses, reasons, measurements and outcomes
    settings.py      what makes a search: space, sampler, seed, data and recipe; and when a run ends
    messages.py      what is said between a run, its workers and its store: tasks, events, commands
    coordinator.py   the state machine of a run: events in, commands out
    run.py           its shell: the loop that owns the executor, the store, the clock and the signals
    analysis.py      what a search found: Pareto fronts, the best so far, what layers go with
    cli/             the command line: the only place that imports workers AND storage

Everything but ``cli`` imports the standard library and numpy only; a test holds it to that.
"""
