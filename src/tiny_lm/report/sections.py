"""The sections of the report, for one run or for several side by side."""

from __future__ import annotations

import json
import math
import re
from functools import partial
from itertools import takewhile
from typing import Any

from tiny_lm.report.charts import Line, line_chart
from tiny_lm.report.page import Html, element, swatch, table
from tiny_lm.report.run import (
    CALIBRATION,
    COMPRESSION,
    COPYING,
    CURVES,
    DISTANCES,
    EVALUATE,
    FREQUENCY,
    HARDWARE,
    POSITIONS,
    SAMPLES,
    SHARDS,
    STAGES,
    TOKENIZER,
    TRAIN,
    Run,
)  # fmt: skip

WORST = 5  # wrong answers shown of each run
FEWEST = 20  # words that a point stands for; the accuracy of fewer is chance
ABOUT_EXAM = (
    "The stories come from a generator, so how each must continue is known. A question is a place in a story that the "
    "model has never seen. The model is right if it finds the story's own words more probable than others that the "
    "story has mentioned, such as another child, thing or place. Who has it: a thing and its owner. Where is it: a "
    "place. Who did it: who acted or spoke. What color or kind: which of the things. What happens next: who or what "
    "the plot turns to. A model that guesses is right as often as chance."
)
ABOUT_PREDICTIONS = (
    "After each token of the validation documents, the model gives every token of its vocabulary a probability. Its "
    "prediction is the most probable one. Copying: a text about a lighthouse will mention the lighthouse again. How "
    "often does the model predict a rare word that it has read before, compared with the first time that the word "
    "occurred? Calibration: of the predictions to which the model gives 70 %, 70 % should be right."
)


def sections(runs: list[Run]) -> list[Html]:
    """The sections of the page, in order."""
    one = len(runs) == 1
    heading = element("h1", "tiny-lm: a training run" if one else f"tiny-lm: {len(runs)} runs side by side")
    return [
        element("header", heading, element("div", *(_card(runs, i) for i in range(len(runs))), class_="runs")),
        _section("Curves", _charts(runs)),
        *_exam(runs),
        *_predictions(runs),
        _section("Samples", _samples(runs), about="Continuations by each model, after the prompt in bold."),
        _section("Metrics", _metrics(runs)),
        _section("Tokenizer", _tokenizer(runs)),
        _section("Params", _params(runs), about=None if one else "Differences between the runs are highlighted."),
        _section("Lineage", *_lineage(runs), about="MD5 hashes of the inputs and outputs of each stage, as recorded in "
                 "dvc.lock. Equal hashes mean equal bytes."),
    ]  # fmt: skip


def _section(title: str, *content: Html, about: str | None = None) -> Html:
    text = [element("p", about)] if about else []
    return element("section", element("h2", title), *text, *content, id=title.lower())


def _card(runs: list[Run], number: int) -> Html:
    """The name, color and scores of a run, and its differences from the first run."""
    run = runs[number]
    about = _changes(runs[0], run) if number else _model(run)
    scores = run.json(EVALUATE)
    if not scores:
        scores, labels = run.json(TRAIN), {"val_loss": "validation loss, not evaluated yet"}
    else:
        labels = {"bits_per_byte": "bits per byte", "perplexity": "perplexity", "loss": "nats per token"}
    figures = [element("div", element("dt", labels[k]), element("dd", _text(scores.get(k)))) for k in labels]
    name = element("h2", swatch(number), run.name)
    return element("div", name, element("p", about, class_="about"), element("dl", *figures))


def _model(run: Run) -> str:
    params = run.stages.params
    name, layers, width, steps = (
        _text(params.get(key, "?")) for key in ("model.architecture", "model.n_layers", "model.d_model", "train.steps")
    )
    return f"{name}, {layers} layers, d_model {width}, {steps} steps"


def _changes(first: Run, run: Run) -> str:
    """What differs in the stages that both ran."""
    new, old = run.stages.only(first.stages), first.stages.only(run.stages)
    params, before = new.params, old.params
    changed = [
        f"{key}={_exact(params[key])}" if key in params else f"no {key}"
        for key in before | params
        if params.get(key) != before.get(key)
    ]
    if changed:
        return ", ".join(changed)
    same = new.inputs == old.inputs and new.outs.get("data/corpus") == old.outs.get("data/corpus")
    return "same params, code and data as the first run" if same else "same params as the first run, other code or data"


def _chart(
    runs: list[Run],
    title: str,
    about: str,
    x: str,
    y: str,
    paths: dict[str, Any],
    *,
    log: bool = False,
    log_x: bool = False,
    diagonal: bool = False,
    fewest: int = 0,
) -> Html:
    lines = [
        Line(run.curve(path, fewest), f"var(--run{i})", style)
        for path, style in paths.items()
        for i, run in enumerate(runs)
        if run.texts[path]
    ]
    if not lines:
        return element("figure", element("h3", title), element("figcaption", "Not evaluated yet."))
    if diagonal:
        lines.insert(0, Line([(0, 0), (1, 1)], "var(--muted)", "faint"))
    svg = Html(line_chart(lines, label=title, x=x, y=y, log=log, log_x=log_x))
    return element("figure", element("h3", title), element("figcaption", about), svg)


def _charts(runs: list[Run]) -> Html:
    chart = partial(_chart, runs)
    step = "optimizer step"
    losses = {CURVES.format("train_loss"): "faint", CURVES.format("val_loss"): "marked"}
    return element(
        "div",
        chart("Loss", "Faint line: training, lower as long as it samples the vocabulary. "
              "Line with points: validation.", step, "nats per token", losses, log=True),
        chart("Loss by position", "Mean over the validation documents that are long enough.", "preceding tokens",
              "nats per token", {POSITIONS: "plain"}),
        *([chart("Exam by distance", "Right answers, by the tokens since the fact was stated.", "tokens", "accuracy",
                 {DISTANCES: "marked"})] if any(run.curve(DISTANCES) for run in runs if run.texts[DISTANCES]) else []),
        chart("Learning rate", "At each logged step.", step, "learning rate", {CURVES.format("lr"): "plain"}),
        chart("Gradient norm", "Before clipping.", step, "norm", {CURVES.format("gradient_norm"): "plain"}, log=True),
        class_="charts",
    )  # fmt: skip


def _exam(runs: list[Run]) -> list[Html]:
    """Accuracy by skill, and the worst answers; nothing if no run took an exam."""
    exams = [run.json(EVALUATE).get("exam") or {} for run in runs]
    if not any(exams):
        return []
    names = dict.fromkeys(key for exam in exams for key, value in exam.items() if isinstance(value, dict))
    rows = [(name.replace("_", " "), [_score(exam.get(name)) for exam in exams]) for name in names]
    rows.insert(0, ("all questions", [_score(exam) for exam in exams]))
    content = [table([run.name for run in runs], [("Right answers (95 % interval), and by chance", rows)])]
    for i, run in enumerate(runs):
        worst = [_wrong(question, margin) for question, margin in run.worst_answers(WORST)]
        if worst:
            title = element(
                "h3", swatch(i) if len(runs) > 1 else None, "Most confidently wrong", f": {run.name}" * (len(runs) > 1)
            )
            content.append(element("div", element("div", title, *worst), class_="samples"))
    return [_section("Exam", *content, about=ABOUT_EXAM)]


def _score(exam: dict[str, Any] | None) -> str:
    if not exam:
        return "–"
    right, low, high, chance = (_percent(exam[key]) for key in ("accuracy", "low", "high", "chance"))
    return f"{right} ({low} to {high}) of {exam['questions']:,}; {chance}"


def _predictions(runs: list[Run]) -> list[Html]:
    """Copying, calibration, and loss by frequency; nothing if no run has them."""
    scores = [run.json(EVALUATE) for run in runs]
    if not any("calibration" in values for values in scores):
        return []
    copying, calibration = ([values.get(key) for values in scores] for key in ("copying", "calibration"))
    right = ["–" if not c else f"{_percent(c['accuracy'])} ({_percent(c['low'])} to {_percent(c['high'])}) of "
             f"{c['words']:,}" for c in copying]  # fmt: skip
    shown = table([run.name for run in runs], [
        ("Copying", [
            ("predicts a rare word again (95 % interval)", right),
            ("the same words at first mention", ["–" if not c else _percent(c["first_mention"]) for c in copying]),
        ]),
        ("Calibration", [
            (label, [_percent(c[key]) if c else "–" for c in calibration])
            for label, key in (("most probable token is right", "accuracy"), ("mean probability of it", "confidence"),
                               ("expected calibration error", "ece"))
        ]),
    ])  # fmt: skip
    chart = partial(_chart, runs)
    charts = [
        *([chart("Copying by distance", f"By the tokens since the word was last read, if {FEWEST} words or more.",
                 "tokens", "accuracy", {COPYING: "marked"}, log_x=True, fewest=FEWEST)]
          if any(run.curve(COPYING, FEWEST) for run in runs) else []),
        chart("Calibration", "How often predictions are right, by the model's probability. Faint line: as often as "
              "expected; below it: overconfident.", "probability", "accuracy", {CALIBRATION: "marked"}, diagonal=True),
        chart("Loss by frequency", "Frequent tokens are easy, rare ones are hard.",
              "occurrences per million training tokens", "nats per token", {FREQUENCY: "marked"}, log_x=True),
    ]  # fmt: skip
    return [_section("Predictions", shown, element("div", *charts, class_="charts"), about=ABOUT_PREDICTIONS)]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _wrong(question: dict[str, Any], margin: float) -> Html:
    """The end of the context with what all choices begin with, and how they differ."""
    columns = takewhile(lambda chars: len(set(chars)) == 1, zip(*question["choices"], strict=False))
    begin = re.sub(r"\w+$", "", "".join(chars[0] for chars in columns))
    *others, right = (choice.removeprefix(begin).strip() for choice in question["choices"])
    context = question["context"]
    if len(context) > 300:
        context = "… " + context[-300:].partition(" ")[2]
    ratio = math.exp(min(-margin, 50))
    times = f"{ratio:,.0f}" if ratio < 1e6 else "more than a million"
    most = ", the most probable of them" if len(others) > 1 else ","
    answer = f"Right: {right}. Wrong: {' / '.join(others)}{most} {times} times as probable."
    return element("div", context + begin, element("p", element("b", answer)), class_="sample")


def _samples(runs: list[Run]) -> Html:
    columns = []
    for i, run in enumerate(runs):
        parts = [element("h3", swatch(i), run.name)] if len(runs) > 1 else []
        for prompt, text in run.samples():
            parts.append(element("div", element("b", prompt) if prompt else None, text, class_="sample"))
        if SAMPLES not in run.stages.outs:
            parts.append(element("p", "Not evaluated yet: run `dvc repro`."))
        elif run.texts[SAMPLES] is None:
            parts.append(element("p", "Not in the cache: run `dvc fetch`."))
        columns.append(element("div", *parts))
    return element("div", *columns, class_="samples")


def _metrics(runs: list[Run]) -> Html:
    files = {"Evaluation, over all validation documents": EVALUATE, "Training": TRAIN, "Machine": HARDWARE}
    groups = []
    for title, path in files.items():
        values = [_with_sources(run.json(path)) for run in runs]
        keys = dict.fromkeys(
            key for figures in values for key, value in figures.items() if not isinstance(value, dict)
        )  # in own sections
        groups.append((title, [(key.replace("_", " "), [_text(v.get(key)) for v in values]) for key in keys]))
    return table([run.name for run in runs], [(title, rows) for title, rows in groups if rows])


def _with_sources(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures, and those of each source of a mixture with the number of the source."""
    sources = figures.get("sources", {}).items()
    return figures | {f"source {n}: {key}": value for n, each in sources for key, value in each.items()}


def _tokenizer(runs: list[Run]) -> Html:
    def facts(run: Run) -> dict[str, str]:
        tokenizer, shards = run.json(TOKENIZER), run.json(SHARDS)
        rows = {"vocabulary": _text(tokenizer.get("vocab_size")), "split pattern": _text(tokenizer.get("pattern"))}
        rows["bytes per token, validation"] = _text(run.json(COMPRESSION).get("bytes_per_token"))
        specials = tokenizer.get("special_tokens", {}).items()
        rows["special tokens"] = _tokens([f"{name} {number}" for name, number in specials])
        for key, words in tokenizer.get("examples", {}).items():
            rows[key.replace("_", " ")] = _tokens(words)
        for split, name in (("train", "training"), ("val", "validation")):
            counts = shards.get(split, {})
            rows[f"{name} data"] = ", ".join(f"{_text(counts.get(k))} {k}" for k in ("documents", "tokens", "bytes"))
            lengths = counts.get("document_tokens", {}).items()
            rows[f"tokens per {name} document"] = ", ".join(f"{key} {_text(value)}" for key, value in lengths)
        return rows

    columns = [facts(run) for run in runs]
    keys = dict.fromkeys(key for column in columns for key in column)
    return table([run.name for run in runs], [("", [(key, [c.get(key, "–") for c in columns]) for key in keys])])


def _tokens(words: list[str]) -> Html:
    """Tokens with visible spaces."""
    return Html("".join(element("span", word.replace(" ", "␣"), class_="token") for word in words))


def _params(runs: list[Run]) -> Html:
    groups: dict[str, list[tuple[str, list[str]]]] = {}
    columns = [run.stages.params for run in runs]
    for key in dict.fromkeys(key for params in columns for key in params):
        section, _, name = key.partition(".")
        values = [_exact(params[key]) if key in params else "–" for params in columns]
        groups.setdefault(section, []).append((name, values))
    return table([run.name for run in runs], list(groups.items()), mark=True)


def _lineage(runs: list[Run]) -> list[Html]:
    """The stages and their inputs, then the hashes. An artifact that is the same in all runs gets one cell."""
    boxes, groups = [], []
    for name in STAGES:
        stages = [run.stages.get(name) for run in runs]
        deps = [(run.stages, path) for run, stage in zip(runs, stages, strict=True) if stage for path in stage.deps]
        sources = dict.fromkeys(made.maker(path) or path for made, path in deps if not path.startswith("src/"))
        boxes.append(
            element("li", element("b", name), element("span", f"from {', '.join(sources)}" if sources else None))
        )
        rows = []
        for verb, kind in (("writes", "outs"), ("reads", "deps")):
            paths = dict.fromkeys(path for stage in stages if stage for path in getattr(stage, kind))
            for path in paths:
                if not path.startswith("src/"):
                    hashes = [getattr(stage, kind).get(path) if stage else None for stage in stages]
                    rows.append((f"{verb} {path}", [_hash(md5) for md5 in hashes]))
        code = [{p: h for p, h in stage.deps.items() if p.startswith("src/")} if stage else {} for stage in stages]
        rows.append(("runs", [_code(files) for files in code]))
        groups.append((name, rows))
    return [element("ol", *boxes, class_="flow"), table([run.name for run in runs], groups, mark=True, beside=False)]


def _code(files: dict[str, str]) -> Html:
    """The number of source files of a stage, which expands to their hashes."""
    lines = [element("div", _hash(md5), " ", path.removeprefix("src/tiny_lm/")) for path, md5 in files.items()]
    return element("details", element("summary", f"{len(files)} source files"), *lines) if files else Html("–")


def _hash(md5: str | None) -> Html:
    return element("code", md5.removesuffix(".dir")[:10], title=md5) if md5 else Html("–")


def _exact(value: Any) -> str:
    """A param, about as YAML writes it."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _text(value: Any) -> str:
    """A number with 4 significant digits and thousands separators."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if math.isfinite(value) and (isinstance(value, int) or (value.is_integer() and abs(value) >= 1000)):
        return f"{value:,.0f}"
    return re.sub(r"e([-+])0?", r"e\1", f"{value:,.0f}" if 1e3 <= abs(value) < 1e15 else f"{value:.4g}")
