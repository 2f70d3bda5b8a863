"""Which images of a split an evaluation takes: all, the first, every k-th, or a keyed sample."""

from collections.abc import Sequence
from pathlib import Path

from featdenoise.base.rng import generator

_FORMS = "all, first:100, every:20, sample:100 or file:ids.txt"


def pick_subset(image_ids: Sequence[int], subset: str | None, *, seed: int = 0) -> tuple[int, ...]:
    """The chosen ids, in the order of `image_ids`.

    Args:
        image_ids: all ids.
        subset: "all" (or None); "first:100" the first hundred; "every:20" the first of every
            twenty; "sample:100" a hundred at random, contained in "sample:200" of the same seed;
            "file:ids.txt" those that the file lists, one a line, in its order.
        seed: of the sample.

    Raises:
        ValueError: another text, a number below 1, more images than there are, or a file that
            lists no number, an unknown id or one twice.
        FileNotFoundError: there is no such file.
    """
    if subset is None or subset == "all":
        return tuple(image_ids)
    kind, _, digits = subset.partition(":")
    if kind == "file":
        return _read_ids(Path(digits), image_ids)
    if kind not in ("first", "every", "sample") or not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"subset must be {_FORMS}, got {subset!r}")
    number = int(digits)
    if number < 1:
        raise ValueError(f"subset must be {_FORMS} with a number >= 1, got {subset!r}")
    if kind == "every":
        return tuple(image_ids[::number])
    if number > len(image_ids):
        raise ValueError(f"subset {subset!r} asks for more than the {len(image_ids)} images")
    if kind == "first":
        return tuple(image_ids[:number])
    places = generator(seed, "subset").permutation(len(image_ids))[:number]
    return tuple(image_ids[place] for place in sorted(places.tolist()))


def _read_ids(path: Path, image_ids: Sequence[int]) -> tuple[int, ...]:
    if not path.is_file():
        raise FileNotFoundError(f"no file of image ids at {path}; write one id a line")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    wrong = [line for line in lines if line and not (line.isascii() and line.isdigit())]
    if wrong:
        raise ValueError(f"{path} must list image ids, one a line, got {wrong[0]!r}")
    chosen = tuple(int(line) for line in lines if line)
    known = set(image_ids)
    unknown = [i for i in chosen if i not in known]
    if unknown or not chosen or len(set(chosen)) != len(chosen):
        fault = f"unknown id {unknown[0]}" if unknown else "no id" if not chosen else "an id twice"
        raise ValueError(f"{path} lists {fault}; the split has {len(image_ids)} images")
    return chosen
