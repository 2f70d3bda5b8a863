"""The model card: what a weights folder's README.md says, made from its config and results.

Measured figures come from results files of these very weights and from nowhere else; figures that
the weights' authors published are labelled as such.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featdenoise.base.results import Row
from featdenoise.base.summary import Blackbox, Certification, Summary, summarize
from featdenoise.base.whitebox_summary import WhiteboxRun
from featdenoise.report.read import Run, read_run
from featdenoise.report.tables import Cell, Table, blackbox_table, certification_table
from featdenoise.report.whitebox import (
    alerts,
    rename_run,
    summarize_whitebox_run,
    whitebox_section,
)

NOT_VERIFIED = "published, not verified here"
_ARCHITECTURE = ("name", "num_classes", "denoise", "denoise_at", "padding")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A finished evaluation of the weights that a card is about."""

    run: Run
    summary: Summary | WhiteboxRun

    @property
    def identity(self) -> Row:
        """What was run."""
        return self.run.files[0].identity


def read_measurements(folders: Sequence[Path], *, name: str, weights: str) -> list[Measurement]:
    """The evaluations in these run folders, all of the same weights.

    Args:
        folders: of white-box, black-box and certification runs.
        name: how the card calls the model.
        weights: the digest of the weights, as in the runs' headers.

    Raises:
        FileNotFoundError: a folder has no results.
        ValueError: a run of other weights, or whose rows do not belong together.
    """
    measurements = []
    for folder in folders:
        run = read_run(Path(folder))
        for file in run.files:
            found = file.identity.get("model", {}).get("weights")
            if found != weights:
                raise ValueError(
                    f"{file.path} was measured on other weights ({found}) than these ({weights}); "
                    "evaluate these, or leave it out"
                )
        measurements.append(Measurement(run=run, summary=_count(run, name)))
    return measurements


def _count(run: Run, name: str) -> Summary | WhiteboxRun:
    if run.kind == "whitebox":
        return rename_run(summarize_whitebox_run(run), name)
    try:
        return summarize(run.kind, name, run.files[0].identity, run.files[0].rows)
    except ValueError as error:
        raise ValueError(f"{run.folder}: {error}") from None


def measured_clean_accuracy(measurements: Sequence[Measurement]) -> dict[str, Any] | None:
    """Clean accuracy over the most images, and which: for `config.json`; None if not measured."""
    found = [
        (attack.clean_accuracy, m.identity.get("data"))
        for m in measurements
        if isinstance(m.summary, WhiteboxRun)
        for attack in m.summary.attacks
    ]
    if not found:
        return None
    share, data = max(found, key=lambda pair: pair[0].count)
    return {"correct": share.correct, "count": share.count, "data": data}


def model_card(
    config: Mapping[str, Any], *, name: str, measurements: Sequence[Measurement] = ()
) -> str:
    """The text of a model card, in markdown with the front matter of the Hugging Face Hub.

    Args:
        config: the content of a weights folder's config.json.
        name: title of the card.
        measurements: evaluations of these weights.
    """
    facts = config["metadata"]
    parts = [
        _front_matter(facts),
        f"# {name}",
        _opening(config),
        "## Use",
        _usage(name),
        "## Architecture",
        _architecture(config["model"]),
        "## Input",
        _input(config["input"], config["model"]),
        "## Robustness",
        _robustness(measurements),
        *([] if facts["published"] is None else [_published(facts["published"])]),
        "## Training",
        _training(facts),
        "## Classes",
        _classes(facts["classes"]),
        "## Licence",
        f"{facts['licence']}." if facts["licence"] else "Not stated: ask before you use them.",
        "## Integrity",
        f"sha256 of `model.safetensors`: `{config['sha256']}`",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(facts: Mapping[str, Any]) -> str:
    licence = facts["licence"]
    # The Hub knows licences by such ids; of one it does not know, the card says the name below.
    tag = "other" if licence is None else licence.lower().replace(" ", "-")
    lines = (
        "---",
        f"license: {tag}",
        "library_name: featdenoise",
        "pipeline_tag: image-classification",
        "tags:",
        "- adversarial-robustness",
        "- feature-denoising",
        "---",
    )
    return "\n".join(lines)


def _opening(config: Mapping[str, Any]) -> str:
    model, facts = config["model"], config["metadata"]
    denoising = (
        "without feature denoising"
        if model["denoise"] == "none"
        else f"with `{model['denoise']}` feature denoising"
    )
    origin = f" The weights come from {facts['origin']}." if facts["origin"] else ""
    return f"An image classifier: `{model['name']}` {denoising}.{origin}"


def _usage(name: str) -> str:
    return (
        "```python\n"
        "import featdenoise\n\n"
        f'model = featdenoise.load_model("{name}")  # this folder, or hf-hub:owner/repository\n'
        "logits = model(images)  # RGB, (N, 3, H, W), in [0, 1]\n"
        "```\n\n"
        f"`featdenoise predict {name} PICTURES` classifies a folder, `featdenoise doctor --model "
        f"{name} --data ...` checks that the images are fed as they should be."
    )


def _architecture(model: Mapping[str, Any]) -> str:
    shown = [name for name in _ARCHITECTURE if name in model]
    lines = ["| field | value |", "| :-- | :-- |"]
    return "\n".join([*lines, *(f"| {name} | `{model[name]}` |" for name in shown)])


def _input(entry: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    size = f"{entry['size']} x {entry['size']}" if entry["size"] else "not recorded"
    return (
        f"{entry['convention']}; mean {model['mean']} and standard deviation {model['std']} are "
        f"applied inside the model. Size: {size}. Resampling of pictures: `{entry['resampling']}`."
    )


def _robustness(measurements: Sequence[Measurement]) -> str:
    if not measurements:
        return "Nothing has been measured on these weights."
    data = dict.fromkeys(_data(m.identity) for m in measurements)
    parts = [f"Measured on {'; '.join(data)}."]
    whitebox = [(m.run, m.summary) for m in measurements if isinstance(m.summary, WhiteboxRun)]
    if whitebox:
        sources, runs = [run for run, _ in whitebox], [summary for _, summary in whitebox]
        for alert in alerts(sources, runs):
            parts.append("\n".join([f"**{alert.heading}**", "", *alert.lines]))
        parts += [table.markdown() for table in whitebox_section(sources, runs)[1]]
    blackbox = [m.summary for m in measurements if isinstance(m.summary, Blackbox)]
    certified = [m.summary for m in measurements if isinstance(m.summary, Certification)]
    parts += [blackbox_table(blackbox).markdown()] if blackbox else []
    parts += [certification_table(certified).markdown()] if certified else []
    return "\n\n".join(parts)


def _data(identity: Mapping[str, Any]) -> str:
    data = identity.get("data")
    if not isinstance(data, Mapping):
        return "the attackers' images"
    return f"{data.get('name')}, split {data.get('split')}, subset {data.get('subset')}"


def _published(published: Mapping[str, Any]) -> str:
    success = published.get("attack_success_rate", {})
    rows = [
        (Cell(steps), Cell(_percent(share)), Cell(_percent(success.get(steps))))
        for steps, share in published.get("robust_accuracy", {}).items()
    ]
    table = Table(
        title=f"{NOT_VERIFIED.capitalize()}: the authors' figures",
        caption=f"{published.get('attack', 'Attack')}. Source: {published['source']}.",
        columns=("iterations", "robust accuracy", "attack success"),
        rows=((Cell("clean"), Cell(_percent(published.get("clean_accuracy"))), Cell("-")), *rows),
    )
    return table.markdown()


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def _training(facts: Mapping[str, Any]) -> str:
    if facts["recipe"] is None:
        return "The recipe is not recorded."
    recipe = json.dumps(facts["recipe"], indent=2)
    return f"Training images: `{facts['data_fingerprint']}`.\n\n```json\n{recipe}\n```"


def _classes(classes: Sequence[str] | None) -> str:
    if classes is None:
        return "The names of the classes are not recorded."
    shown = ", ".join(classes[:10])
    rest = f", ... {classes[-1]}" if len(classes) > 10 else ""
    return f"{len(classes)}, by index: {shown}{rest}. All are in `config.json`."
