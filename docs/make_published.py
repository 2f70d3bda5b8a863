"""Make featdenoise/base/published.json, the papers' values that the package quotes.

    python docs/make_published.py paper_tables.json featdenoise/base/published.json

The source is a transcription of the papers' tables and figures: one entry a value, each with its
place and how sure its reading is. Kept are Xie et al. 2019's results and the model zoo of its code;
left out are training settings, which the recipes state. The only thing added is `model`: one name
for the network that figures, tables and zoo call differently.
"""

import json
import sys
from pathlib import Path

PAPERS = ("xie2019", "xie2019_zoo")
LEFT_OUT = ("Sec 5", "Training speed")
FIELDS = (
    "paper", "ref", "row", "column", "model", "metric", "value", "unit", "confidence",
    "attack_iterations", "dataset", "attack", "norm", "epsilon_255", "note", "alternative",
)  # fmt: skip
MODELS = {
    "ALP, Inception-v3": ("ALP, Inception-v3",),
    "ResNet-101": ("ours, R-101 baseline",),
    "ResNet-152": ("ours, R-152 baseline", "ResNet-152 baseline", "ResNet152 Baseline"),
    "ResNet-152 denoise": (
        "ours, R-152 denoise (4 non-local Gaussian)",
        "R-152 +4 denoise: non-local, Gaussian",
        "+4 denoise: non-local, Gaussian",
        "non-local, Gaussian",
        "ResNet152 Denoise",
    ),
    "ResNet-152 denoise without 1x1": ("removing 1x1",),
    "ResNet-152 denoise without residual": ("removing residual",),
    "ResNeXt-101 denoise-all": ("ResNeXt101 DenoiseAll",),
}
CLEAN_TRAINED = "Table 3"
"""Its networks share rows with the others but never saw an adversarial image."""


def select(tables: dict) -> dict:
    """The values kept, in the order of the source."""
    model_of = {row: model for model, rows in MODELS.items() for row in rows}
    entries = []
    for entry in tables["entries"]:
        wanted = entry["paper"] in PAPERS and entry["ref"] not in LEFT_OUT
        if not wanted or entry["metric"] == "legend_entry":
            continue
        model = None if entry["ref"] == CLEAN_TRAINED else model_of.get(entry["row"])
        named = {**entry, "model": model}
        entries.append({field: named[field] for field in FIELDS if named.get(field) is not None})
    return {
        "schema": 1,
        "papers": {paper: tables["papers"][paper] for paper in PAPERS},
        "confidence_levels": tables["confidence_levels"],
        "entries": entries,
    }


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    made = select(json.loads(source.read_text()))
    head = {name: json.dumps(value) for name, value in made.items()}
    # One line an entry, so that a changed value is one changed line.
    head["entries"] = "[\n" + ",\n".join(map(json.dumps, made["entries"])) + "\n]"
    fields = ",\n".join(f'"{name}": {text}' for name, text in head.items())
    target.write_text("{\n" + fields + "\n}\n")
