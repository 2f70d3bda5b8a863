import math
from statistics import NormalDist

import pytest
import torch
from scipy.stats import binom

from featdenoise.base.binomial import clopper_pearson_lower
from featdenoise.base.rng import Stream
from featdenoise.smoothing.certify import ABSTAIN, VOTE_BLOCK, Smooth
from featdenoise.smoothing.noise import Gaussian

SHAPE = (3, 4, 4)


def one_image(image_id=0, seed=0):
    return Stream(seed=seed, image_ids=(image_id,))


def grey(value=0.5):
    return torch.full(SHAPE, value)


def half_space(margin):
    """Class 1 on one side of a plane at l2 distance `margin` from the grey image, else class 0."""
    direction = torch.ones(SHAPE).flatten() / math.sqrt(48)
    offset = float(direction.double() @ grey().flatten().double()) - margin

    def classify(images):
        side = (images.flatten(1).double() * direction.double()).sum(1) - offset
        return torch.stack([torch.zeros_like(side), side], dim=1)

    return classify


def votes_for(schedule, num_classes=3):
    """A base classifier that ignores its images and casts the scheduled votes, one call each."""
    remaining = list(schedule)

    def classify(images):
        wanted = remaining.pop(0)
        assert sum(wanted) == len(images)
        classes = torch.repeat_interleave(torch.arange(num_classes), torch.tensor(wanted))
        return torch.nn.functional.one_hot(classes, num_classes).float()

    return classify


def seen_by(**arguments):
    """Every noisy copy that CERTIFY shows the base classifier, in order."""
    shown = []

    def classify(images):
        shown.append(images.clone())
        return images.flatten(1)[:, :2]

    smooth = Smooth(classify, num_classes=2, noise=Gaussian(sigma=0.5))
    smooth.certify(grey(), **{"stream": one_image(), **arguments})
    return shown


def share_no_copy(some, others):
    """Whether no noisy copy stands in both batches, at any place."""
    distances = torch.cdist(some.flatten(1), others.flatten(1))
    return bool(distances.min() > 0.1)


@pytest.mark.parametrize(
    ("n_top", "n", "p_lower", "radius"),
    [
        (100, 100, 0.933254300796991, 0.3751187560301591),
        (99, 100, 0.9113731112960424, 0.33731475970259756),
        (1000, 1000, 0.9931160484209338, 0.6158156536952029),
        (990, 1000, 0.9760361871553114, 0.49450239553529984),
        (10_000, 10_000, 0.9993094630025899, 0.7996443786845846),
        (9990, 10_000, 0.9975883080325683, 0.7046495750995613),
        (9900, 10_000, 0.9865311593238062, 0.5531049162755474),
        (9000, 10_000, 0.8904097336749064, 0.30717751525749626),
        (6000, 10_000, 0.5847476703522463, 0.05351359224322262),
        (100_000, 100_000, 0.9999309248330094, 0.9528641408474786),
        (90_000, 100_000, 0.8970364962238291, 0.31621117258435805),
    ],
)
def test_certificate_of_known_counts_has_the_published_values(n_top, n, p_lower, radius):
    base = votes_for([(0, 100, 0), (n - n_top, n_top, 0)])
    smooth = Smooth(base, num_classes=3, noise=Gaussian(sigma=0.25))
    certificate = smooth.certify(
        torch.zeros(1, 1, 1), n0=100, n=n, alpha=0.001, batch_size=n, stream=one_image()
    )
    assert certificate.prediction == 1
    assert certificate.n_top == n_top
    assert certificate.p_lower == pytest.approx(p_lower, abs=1e-12)
    assert certificate.radius == pytest.approx(radius, abs=1e-9)


@pytest.mark.parametrize(("n", "smallest"), [(100, 66), (1000, 550), (10_000, 5156)])
def test_certify_abstains_below_the_smallest_sufficient_count(n, smallest):
    for n_top, prediction in ((smallest, 0), (smallest - 1, ABSTAIN)):
        base = votes_for([(60, 40, 0), (n_top, n - n_top, 0)])
        smooth = Smooth(base, num_classes=3, noise=Gaussian(sigma=0.25))
        certificate = smooth.certify(
            torch.zeros(1, 1, 1), n0=100, n=n, batch_size=n, stream=one_image()
        )
        assert certificate.prediction == prediction
        assert (certificate.radius == 0.0) == (prediction == ABSTAIN)


def test_class_is_selected_by_the_selection_votes_alone():
    base = votes_for([(0, 51, 49), (0, 10, 990)])
    smooth = Smooth(base, num_classes=3, noise=Gaussian(sigma=0.25))
    certificate = smooth.certify(grey(), n0=100, n=1000, stream=one_image())
    assert certificate.n_top == 10
    assert (certificate.prediction, certificate.radius) == (ABSTAIN, 0.0)


def test_tied_selection_votes_go_to_the_lowest_class():
    base = votes_for([(0, 50, 50), (0, 1000, 0)])
    smooth = Smooth(base, num_classes=3, noise=Gaussian(sigma=0.25))
    assert smooth.certify(grey(), n0=100, n=1000, stream=one_image()).prediction == 1


@pytest.mark.parametrize(
    ("n", "alpha", "smallest"),
    [(100, 0.001, 67), (100, 0.05, 61), (1000, 0.001, 553), (1000, 0.05, 532)],
)
def test_predict_abstains_below_the_smallest_sufficient_count(n, alpha, smallest):
    for n_top, prediction in ((smallest, 2), (smallest - 1, Smooth.ABSTAIN)):
        smooth = Smooth(votes_for([(0, n - n_top, n_top)]), num_classes=3, noise=Gaussian())
        assert smooth.predict(grey(), n=n, alpha=alpha, stream=one_image()) == prediction


def test_predict_compares_the_two_largest_counts_only():
    # 40 against 15 of 55 is significant at 0.01, whatever third classes got.
    smooth = Smooth(votes_for([(45, 40, 15)]), num_classes=3, noise=Gaussian())
    assert smooth.predict(grey(), n=100, alpha=0.01, stream=one_image()) == ABSTAIN
    smooth = Smooth(votes_for([(15, 45, 40, 0)], 4), num_classes=4, noise=Gaussian())
    assert smooth.predict(grey(), n=100, alpha=0.01, stream=one_image()) == ABSTAIN
    smooth = Smooth(votes_for([(15, 15, 15, 55)], 4), num_classes=4, noise=Gaussian())
    assert smooth.predict(grey(), n=100, alpha=0.01, stream=one_image()) == 3


def test_radius_of_a_half_space_exceeds_its_margin_in_at_most_alpha_of_runs():
    sigma, margin, alpha, n, runs = 0.5, 0.4, 0.1, 1000, 400
    smooth = Smooth(half_space(margin), num_classes=2, noise=Gaussian(sigma=sigma))
    radii = [
        smooth.certify(grey(), n0=20, n=n, alpha=alpha, stream=one_image(i)).radius
        for i in range(runs)
    ]
    violations = sum(radius > margin for radius in radii)
    # Truth is at most alpha and, the bound being tight, not far below; each side fails with 1e-6.
    assert violations <= binom.ppf(1 - 1e-6, runs, alpha)
    assert violations >= binom.ppf(1e-6, runs, 0.8 * alpha)
    assert sum(radii) / runs > 0.85 * margin


def test_votes_of_a_half_space_have_the_exact_probability():
    sigma, margin, n = 0.25, 0.2, 20_000
    smooth = Smooth(half_space(margin), num_classes=2, noise=Gaussian(sigma=sigma))
    certificate = smooth.certify(grey(), n=n, stream=one_image())
    p = NormalDist().cdf(margin / sigma)
    assert binom.ppf(1e-6, n, p) <= certificate.n_top <= binom.ppf(1 - 1e-6, n, p)
    assert certificate.p_lower == clopper_pearson_lower(certificate.n_top, n, 0.001)


def test_image_on_the_plane_is_abstained_on():
    smooth = Smooth(half_space(0.0), num_classes=2, noise=Gaussian(sigma=0.25))
    certificate = smooth.certify(grey(), n=2000, stream=one_image())
    assert (certificate.prediction, certificate.radius) == (ABSTAIN, 0.0)
    assert smooth.predict(grey(), n=2000, stream=one_image()) == ABSTAIN


@pytest.mark.parametrize("batch_size", [1, 7, 64, 100, 150, 1000])
def test_votes_do_not_depend_on_the_batch_size(batch_size):
    expected = torch.cat(seen_by(n0=30, n=250, batch_size=10_000))
    shown = seen_by(n0=30, n=250, batch_size=batch_size)
    assert torch.equal(torch.cat(shown), expected)
    assert max(len(batch) for batch in shown) == min(batch_size, 250)


@pytest.mark.parametrize("n", [1, 99, 100, 101, 250])
def test_exactly_n0_and_n_copies_are_classified(n):
    selection, estimation = seen_by(n0=30, n=n, batch_size=1000)
    assert (len(selection), len(estimation)) == (30, n)


def test_fewer_votes_are_the_beginning_of_more():
    _, few = seen_by(n=130, batch_size=1000)
    _, many = seen_by(n=250, batch_size=1000)
    assert torch.equal(few, many[:130])


def test_selection_and_estimation_use_different_noise():
    selection, estimation = seen_by(n0=VOTE_BLOCK, n=VOTE_BLOCK)
    assert share_no_copy(selection, estimation)


def test_every_vote_of_every_block_has_its_own_noise():
    _, copies = seen_by(n=3 * VOTE_BLOCK, batch_size=1000)
    assert len(torch.unique(copies, dim=0)) == 3 * VOTE_BLOCK


def test_noise_belongs_to_seed_and_image_and_is_repeated():
    (first, *_) = seen_by()
    torch.manual_seed(99)
    assert torch.equal(first, seen_by()[0])
    assert share_no_copy(first, seen_by(stream=one_image(image_id=1))[0])
    assert share_no_copy(first, seen_by(stream=one_image(seed=1))[0])


def test_noise_is_never_clipped():
    _, copies = seen_by(n=1000)
    assert copies.dtype == torch.float32
    assert copies.min() < -0.5
    assert copies.max() > 1.5
    assert (copies - 0.5).std() == pytest.approx(0.5, rel=0.02)


def test_gradients_are_off_while_voting():
    weight = torch.ones((), requires_grad=True)

    def classify(images):
        logits = weight * images.flatten(1)[:, :2]
        assert not logits.requires_grad
        return logits

    Smooth(classify, num_classes=2, noise=Gaussian()).predict(grey(), n=10, stream=one_image())


@pytest.mark.parametrize("width", [2, 4])
def test_logits_of_another_width_are_refused(width):
    smooth = Smooth(lambda x: x.flatten(1)[:, :width], num_classes=3, noise=Gaussian())
    with pytest.raises(ValueError, match="num_classes is 3"):
        smooth.certify(grey(), n=10, stream=one_image())


def test_nan_logits_stop_the_certificate():
    def classify(images):
        logits = images.flatten(1)[:, :2].clone()
        logits[0, 1] = math.nan
        return logits

    smooth = Smooth(classify, num_classes=2, noise=Gaussian())
    with pytest.raises(RuntimeError, match="NaN logits for 1 of 100 votes on image 5"):
        smooth.certify(grey(), n=10, stream=one_image(5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n0": 0}, "n0 must be at least 1"),
        ({"n": 0}, "n must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"alpha": 0.0}, "alpha must be strictly between"),
        ({"alpha": 1.0}, "alpha must be strictly between"),
        ({"alpha": math.nan}, "alpha must be strictly between"),
        ({"stream": Stream(seed=0, image_ids=(1, 2))}, "exactly one image"),
        ({"image": torch.zeros(1, 3, 4, 4)}, r"image must be \(C, H, W\)"),
        ({"image": torch.full(SHAPE, 2.0)}, r"image must be in \[0, 1\]"),
        ({"image": torch.zeros(SHAPE, dtype=torch.uint8)}, "image must be floating point"),
        ({"image": torch.full(SHAPE, math.nan)}, "image must be in"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    smooth = Smooth(half_space(0.1), num_classes=2, noise=Gaussian())
    given = {"image": grey(), "stream": one_image(), **arguments}
    with pytest.raises(ValueError, match=message):
        smooth.certify(given.pop("image"), **given)
    if "n0" not in arguments:
        given = {"image": grey(), "stream": one_image(), **arguments}
        with pytest.raises(ValueError, match=message):
            smooth.predict(given.pop("image"), **given)


def test_one_class_is_no_classifier():
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        Smooth(half_space(0.1), num_classes=1, noise=Gaussian())
