"""Which images of a split an evaluation takes: all, the first, every k-th, or a keyed sample."""

import hashlib
from collections.abc import Sequence

from featdenoise.base.rng import generator

_FORMS = "all, first:100, every:20 or sample:100"


def pick_subset(image_ids: Sequence[int], subset: str | None, *, seed: int = 0) -> tuple[int, ...]:
    """The chosen ids, in the order of `image_ids`.

    Args:
        image_ids: all ids.
        subset: "all" (or None); "first:100" the first hundred; "every:20" the first of every
            twenty; "sample:100" a hundred at random, contained in "sample:200" of the same seed.
        seed: of the sample.

    Raises:
        ValueError: another text, a number below 1, or more images than there are.
    """
    if subset is None or subset == "all":
        return tuple(image_ids)
    kind, _, digits = subset.partition(":")
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


def hash_subset(image_ids: Sequence[int]) -> str:
    """A short digest of the ids in their order, for a run's identity."""
    text = ",".join(str(i) for i in image_ids)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
