"""A study's report: its figures as PNG, and all of them in one self-contained HTML file."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from matplotlib.figure import Figure
from PIL import Image

from pgzoo.errors import ConfigError
from pgzoo.files import atomic_write, writing
from pgzoo.formatting import format_number
from pgzoo.tuning.figures import CAPTIONS, draw
from pgzoo.tuning.results import best_trials, count, drawn, failures, metrics_of, outcome
from pgzoo.tuning.retrained import HEADER, find_retrained, result, row, sentence
from pgzoo.tuning.study import DEFINITION

N_BEST = 10
N_COLOURS = 128
NUMBER = ' class="n"'
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd }
th { text-align: left } td.n { text-align: right } img { max-width: 100% } code { background: #f3f3f3 }
"""


def write_report(study: optuna.Study, folder: Path) -> Path:
    """Write a PNG for each figure, and `report.html`. Return the path of `report.html`.

    Raises:
        ConfigError: no trial is complete.
        MachineError: the folder cannot be written.
    """
    if not best_trials(study):
        raise ConfigError(f"{study.study_name} does not have a complete trial to report")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # figures are drawn from copies of the study
    try:
        figures = dict(_save_figures(study, folder))
    finally:
        optuna.logging.set_verbosity(verbosity)
    page = folder / "report.html"
    with atomic_write(page) as partial:
        partial.write_text(_page(study, figures), encoding="utf-8")
    return page


def _save_figures(study: optuna.Study, folder: Path) -> Iterator[tuple[str, Path]]:
    """Save each figure for which the study has data; yield names and files."""
    for name in CAPTIONS:
        figure = draw(name, study)
        if figure is not None:
            path = folder / f"{name}.png"
            with atomic_write(path) as partial:
                _save(figure, partial)
            yield name, path


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=90, bbox_inches="tight")
    with Image.open(path) as image:  # so few colours are enough here, and make the file a third as large
        image.convert("RGB").quantize(N_COLOURS).save(path, optimize=True)


# ---------------------------------------------------------------- the page


def _page(study: optuna.Study, figures: dict[str, Path]) -> str:
    counts = count(study)
    definition = study.user_attrs[DEFINITION]
    facts = {key: value for key, value in definition.items() if key != "space"}
    parts = [
        f"<h1>{html.escape(study.study_name)}</h1>",
        f"<p>{counts.complete} trials complete, {counts.pruned} pruned, {counts.failed} failed.</p>",
        _result(study),
        *(_image(name, path) for name, path in figures.items()),
        "<h2>Best trials of the search</h2><p>These values are optimistic, because the trials were chosen by them.</p>",
        _best(study),
        "<h2>Failures</h2>" + _list(f"trial {trial.number}: {outcome(trial)}" for trial in failures(study)),
        "<h2>The study</h2>" + _table(("", ""), list(facts.items())),
        "<h2>The search space</h2>" + _table(("", ""), list(definition["space"].items())),
    ]
    title = html.escape(study.study_name)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</html>\n"
    )


def _result(study: optuna.Study) -> str:
    metrics = metrics_of(study)
    retrained = find_retrained(study)
    if not retrained:
        return "<p>The best trials have not been trained again yet.</p>"
    found = result(retrained, metrics)
    shown = f"<p><b>{html.escape(sentence(found, metrics))}</b></p>" if found else ""
    tables = [
        f"<p>{html.escape(metric.name)}:</p>"
        + _table(HEADER, [row(candidate, retrained, index) for candidate in retrained])
        for index, metric in enumerate(metrics)
    ]
    return "<h2>Result</h2>" + shown + "".join(tables)


def _best(study: optuna.Study) -> str:
    rows = [
        (
            trial.number,
            trial.user_attrs["plugin"],
            *trial.values,
            drawn(trial),
        )
        for trial in best_trials(study)[:N_BEST]
    ]
    return _table(("trial", "plugin", *(metric.name for metric in metrics_of(study)), "hyperparameters"), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{html.escape(word)}</th>" for word in header)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"<td{NUMBER if number else ''}>{html.escape(_text(value))}</td>"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return format_number(value) if isinstance(value, float) else str(value)


def _list(items: Iterable[str]) -> str:
    shown = "".join(f"<li>{html.escape(item)}</li>" for item in items)
    return f"<ul>{shown}</ul>" if shown else "<p>None.</p>"


def _image(name: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    caption = html.escape(CAPTIONS[name])
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    )
