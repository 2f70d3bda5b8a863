import pytest
import torch

from featdenoise.attacks.targets import (
    least_likely_targets,
    next_targets,
    top_k_targets,
    uniform_targets,
)
from featdenoise.base.rng import Stream


def test_targets_are_wrong_classes_and_every_one_equally_often():
    count, num_classes = 6000, 5
    labels = torch.arange(count) % num_classes
    targets = uniform_targets(labels, num_classes, Stream(seed=0, image_ids=tuple(range(count))))
    assert targets.dtype == torch.int64
    assert not (targets == labels).any()
    shifts = ((targets - labels) % num_classes).bincount(minlength=num_classes)
    assert shifts[0] == 0
    # Each of four shifts has expectation 1500 and standard deviation 34.
    assert ((shifts[1:] - 1500).abs() < 140).all()


def test_target_belongs_to_the_image(labels, stream):
    together = uniform_targets(labels, 100, stream)
    alone = [uniform_targets(labels[i : i + 1], 100, stream.subset([i])) for i in range(5)]
    assert torch.equal(torch.cat(alone), together)
    assert not torch.equal(uniform_targets(labels, 100, stream, draw=1), together)


def test_one_class_or_another_batch_is_refused(labels, stream):
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        uniform_targets(labels, 1, stream)
    with pytest.raises(ValueError, match="5 image ids for 2 labels"):
        uniform_targets(labels[:2], 4, stream)


def test_next_target_is_the_class_after_the_label():
    assert next_targets(torch.tensor([0, 2, 3]), 4).tolist() == [1, 3, 0]
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        next_targets(torch.tensor([0]), 1)


def test_ranked_targets_are_the_wrong_classes_sorted_by_logit():
    logits = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 6
    ranked = [
        sorted((k for k in range(6) if k != y), key=lambda k, row=row: -float(row[k]))
        for row, y in zip(logits, labels.tolist(), strict=True)
    ]
    assert top_k_targets(logits, labels, 5).tolist() == ranked
    assert top_k_targets(logits, labels, 2).tolist() == [row[:2] for row in ranked]
    assert least_likely_targets(logits, labels).tolist() == [row[-1] for row in ranked]


def test_more_targets_than_wrong_classes_are_refused():
    with pytest.raises(ValueError, match=r"9 target classes asked, .* ask for 1 to 3"):
        top_k_targets(torch.zeros(2, 4), torch.tensor([0, 1]), 9)
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        least_likely_targets(torch.zeros(1, 1), torch.tensor([0]))
