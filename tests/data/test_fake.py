"""Generated images: a pure function of split and id, and learnable."""

import torch

from featdenoise.data.fake import make_fake_images


def test_an_image_does_not_depend_on_how_many_are_made() -> None:
    few, many = (make_fake_images("test", num_images=n, image_size=8) for n in (3, 30))
    assert torch.equal(few.batch(range(3))[0], many.batch(range(3))[0])


def test_nearest_class_mean_of_training_images_classifies_test_images() -> None:
    train = make_fake_images("train", num_images=100, num_classes=5, image_size=10)
    test = make_fake_images("test", num_images=50, num_classes=5, image_size=10)
    images, labels = train.batch(train.image_ids)
    means = torch.stack([images[labels == k].mean(0).flatten() for k in range(5)])
    images, labels = test.batch(test.image_ids)
    assert (torch.cdist(images.flatten(1), means).argmin(1) == labels).all()
