import pytest
import torch

from featdenoise.attacks.targets import uniform_targets
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
