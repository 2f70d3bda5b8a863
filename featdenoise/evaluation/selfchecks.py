"""Does the verdict deserve belief? Checks that a masked model fails and an honest one passes.

A model can look robust because its gradients are useless (quantised inputs, saturated logits,
random layers, shattered gradients), not because it is hard to fool. Each check looks for one
symptom on a seeded subset; a failed one marks the whole result as suspect. After Carlini et al.
2019, "On Evaluating Adversarial Robustness", Sec. 3 and 4, and the checks of AutoAttack.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from featdenoise.attacks.core import Norm
from featdenoise.attacks.oracle import GradientOracle
from featdenoise.attacks.pgd import PGD
from featdenoise.attacks.square import Square
from featdenoise.base.binomial import Proportion
from featdenoise.base.judge import FOREIGN_FAILURES, judge
from featdenoise.base.rng import Stream, generator
from featdenoise.base.selfcheck_results import Check
from featdenoise.base.units import format_ball, format_pixels
from featdenoise.data.imageset import LabelledImages
from featdenoise.evaluation.paired_check import Finding, stronger_is_stronger

SATURATED_MARGIN = 80.0
"""A margin of the logits at which float32 cross-entropy has lost its gradient."""
MOST_ZERO_GRADIENTS = 0.1
MOST_SATURATED = 0.1
LARGE_EPSILON = 0.5
RESTARTS = 4
RUN_IS_NO_WEAKER = "the run's attacks are no weaker"
OWN_BEATS_TRANSFER = "the model's own gradients beat a surrogate's"


@dataclass(frozen=True, kw_only=True)
class SelfChecks:
    """How the checks are made."""

    epsilon: float
    """Radius of the evaluation, in pixel units."""
    norm: Norm = "linf"
    """Norm of its ball."""
    num_images: int = 64
    """Size of the seeded subset."""
    num_steps: int = 40
    """Iterations of the gradient attack."""
    num_queries: int = 1000
    """Queries of the attack that sees no gradients."""
    chunk_size: int = 64
    """Images attacked together."""
    seed: int = 0


def check_evaluation(
    model: nn.Module,
    images: LabelledImages,
    image_ids: Sequence[int],
    settings: SelfChecks,
    *,
    device: torch.device | None = None,
    survivors: Mapping[int, bool] | None = None,
    surrogate: nn.Module | None = None,
) -> list[Check]:
    """Look for every symptom; a check that cannot be made counts as failed.

    Args:
        model: the model under evaluation, on its device.
        images: where they come from.
        image_ids: those of the evaluation, of which a seeded subset is taken.
        settings: ball, sizes, seed.
        device: of the model.
        survivors: whether each image is right when clean and under all untargeted attacks that the
            evaluation made in this ball, which should be no weaker than those of the checks.
        surrogate: another model, whose adversarial images must not beat the model's own.

    Returns:
        All checks, in a fixed order; the last two only with survivors and with a surrogate.
    """
    subject = _Subject.load(model, images, image_ids, settings, device or torch.device("cpu"))
    symptoms = dict(_SYMPTOMS)
    if survivors is not None:
        stands = torch.tensor([survivors[i] for i in subject.stream.image_ids])
        symptoms[RUN_IS_NO_WEAKER] = partial(_run_is_no_weaker, stands=stands)
    if surrogate is not None:
        symptoms[OWN_BEATS_TRANSFER] = partial(_own_attack_beats_transfer, surrogate=surrogate)
    return [_look(name, symptom, subject) for name, symptom in symptoms.items()]


def _look(name: str, symptom: "Symptom", subject: "_Subject") -> Check:
    ball = format_ball(subject.settings.norm, subject.settings.epsilon)
    try:
        passed, detail = symptom(subject)
    except FOREIGN_FAILURES as error:
        detail = f"could not be made: {type(error).__name__}: {error}"
        return Check(name=name, passed=False, detail=detail, ball=ball, was_made=False)
    return Check(name=name, passed=passed, detail=detail, ball=ball)


@dataclass(frozen=True)
class _Subject:
    """The model and the subset."""

    model: nn.Module
    oracle: GradientOracle
    images: Tensor
    labels: Tensor
    stream: Stream
    settings: SelfChecks

    @classmethod
    def load(
        cls,
        model: nn.Module,
        images: LabelledImages,
        image_ids: Sequence[int],
        settings: SelfChecks,
        device: torch.device,
    ) -> "_Subject":
        order = generator(settings.seed, "self-check subset").permutation(len(image_ids))
        chosen = tuple(image_ids[place] for place in sorted(order[: settings.num_images].tolist()))
        batch, labels = images.batch(chosen)
        stream = Stream(seed=settings.seed, image_ids=chosen)
        oracle = GradientOracle(model)
        return cls(model, oracle, batch.to(device), labels.to(device), stream, settings)

    def pieces(self) -> Iterator[tuple[list[int], Stream]]:
        """The places of the images that are computed together, and their randomness."""
        places = range(len(self.images))
        for first in range(0, len(places), self.settings.chunk_size):
            together = list(places[first : first + self.settings.chunk_size])
            yield together, self.stream.subset(together)

    def logits(self, images: Tensor) -> Tensor:
        """The evaluator's own forward pass."""
        return torch.cat(
            [
                judge(self.model, images[places], [f"image {i}" for i in stream.image_ids])
                for places, stream in self.pieces()
            ]
        )

    def gradients(self) -> Tensor:
        """(N, C, H, W) of the loss at the clean images."""
        return torch.cat(
            [
                self.oracle.loss_and_gradient(self.images[places], self.labels[places])[1]
                for places, _ in self.pieces()
            ]
        )

    def right(self, images: Tensor) -> Tensor:
        """(N,) bool: predicted as the label."""
        return self.logits(images).argmax(1) == self.labels

    def attack(self, *, epsilon: float | None = None, num_steps: int | None = None) -> PGD:
        """The gradient attack at the radius of the evaluation, or changed."""
        epsilon = self.settings.epsilon if epsilon is None else epsilon
        num_steps = num_steps or self.settings.num_steps
        # Steps that cross the ball about three times.
        step_size = min(6 * epsilon / max(num_steps, 6), self._widest)
        return PGD(
            epsilon=epsilon, step_size=step_size, num_steps=num_steps, norm=self.settings.norm
        )

    @property
    def inscribed(self) -> float:
        """Radius of the largest l-infinity ball inside an l-infinity or l2 ball of radius 1."""
        return 1.0 if self.settings.norm == "linf" else self.images[0].numel() ** -0.5

    @property
    def _widest(self) -> float:
        """A radius that covers all of [0, 1] from anywhere."""
        return 1 / self.inscribed

    def radius(self, epsilon: float) -> float:
        """At most the radius that covers everything."""
        return min(epsilon, self._widest)

    @cached_property
    def right_under_attack(self) -> Tensor:
        """(N,) bool: predicted as the label under the gradient attack."""
        return self.right(self.attacked(self.attack()))

    @cached_property
    def right_under_queries(self) -> Tensor:
        """(N,) bool: predicted as the label under the attack that sees no gradients."""
        square = Square(
            epsilon=self.settings.epsilon,
            norm=self.settings.norm,
            num_queries=self.settings.num_queries,
            rescale_schedule=True,
        )
        return self.right(self.attacked(square))

    def attacked(self, attack: Callable[..., Tensor]) -> Tensor:
        """Adversarial images of this attack on the model."""
        return torch.cat(
            [
                attack(self.oracle, self.images[places], self.labels[places], stream=stream)
                for places, stream in self.pieces()
            ]
        )

    def walked(self, attack: PGD, budgets: Sequence[int]) -> list[Tensor]:
        """Adversarial images at each of these numbers of steps, ascending."""
        paths = [
            attack.trajectory(
                self.oracle,
                self.images[places],
                self.labels[places],
                record_at=budgets,
                stream=stream,
            )
            for places, stream in self.pieces()
        ]
        return [torch.cat([path[budget] for path in paths]) for budget in budgets]

    def share(self, flags: Tensor) -> Proportion:
        """How many images have the flag."""
        return Proportion(int(flags.sum()), len(flags))


def _outputs_are_logits(subject: _Subject) -> Finding:
    logits = subject.logits(subject.images)
    sums_to_one = (logits.sum(1) - 1).abs().max() < 1e-3
    are_probabilities = bool((logits >= 0).all() and (logits <= 1).all() and sums_to_one)
    return Finding(
        not are_probabilities,
        "every output is a probability: the model ends in a softmax, which hides gradients; "
        "take it off"
        if are_probabilities
        else "outputs are not probabilities",
    )


def _forward_passes_agree(subject: _Subject) -> Finding:
    first, second = subject.logits(subject.images), subject.logits(subject.images)
    return _equal_logits(first, second)


def _batches_do_not_matter(subject: _Subject) -> Finding:
    few = subject.images[:8]
    names = [f"image {i}" for i in subject.stream.image_ids[:8]]
    together = judge(subject.model, few, names)
    alone = [judge(subject.model, few[k : k + 1], names[k : k + 1]) for k in range(len(few))]
    return _equal_logits(together, torch.cat(alone))


def _equal_logits(first: Tensor, second: Tensor) -> Finding:
    # Only differences between classes decide: what all logits share would hide them.
    first, second = (logits - logits.mean(1, keepdim=True) for logits in (first, second))
    scale = float(first.abs().mean()) or 1.0
    difference = float((first - second).abs().max()) / scale
    return Finding(difference < 1e-2, f"logits differ by at most {difference:.2g} of their size")


def _gradients_are_there(subject: _Subject) -> Finding:
    zero = subject.share((subject.gradients() == 0).flatten(1).all(1))
    return Finding(
        zero.fraction <= MOST_ZERO_GRADIENTS,
        f"{zero} of the images have a gradient of exactly zero",
    )


def _logits_are_not_saturated(subject: _Subject) -> Finding:
    best = subject.logits(subject.images).topk(2, dim=1).values
    saturated = subject.share(best[:, 0] - best[:, 1] > SATURATED_MARGIN)
    return Finding(
        saturated.fraction <= MOST_SATURATED,
        f"{saturated} of the images have a margin above {SATURATED_MARGIN:g}",
    )


def _attack_raises_the_loss(subject: _Subject) -> Finding:
    attack = subject.attack()
    path = subject.walked(attack, (0, attack.num_steps))
    start, end = (_losses(subject, images) for images in path)
    rises = subject.share(end > start)
    return Finding(
        rises.fraction >= 0.5,
        f"the loss is higher at the end than at the start on {rises} of the images",
    )


def _losses(subject: _Subject, images: Tensor) -> Tensor:
    logits = subject.logits(images).double()
    return torch.nn.functional.cross_entropy(logits, subject.labels, reduction="none")


def _more_iterations_do_not_help(subject: _Subject) -> Finding:
    budgets = (5, 2 * subject.settings.num_steps)
    attack = replace(subject.attack(num_steps=budgets[0]), num_steps=budgets[1])
    weak, strong = map(subject.right, subject.walked(attack, budgets))
    return stronger_is_stronger(
        f"{budgets[0]} iterations",
        weak,
        f"{budgets[1]} iterations",
        strong,
    )


def _more_restarts_do_not_help(subject: _Subject) -> Finding:
    several = replace(subject.attack(), restarts=RESTARTS)
    return stronger_is_stronger(
        "1 run",
        subject.right_under_attack,
        f"the worst of {RESTARTS}",
        subject.right(subject.attacked(several)),
    )


def _more_epsilon_does_not_help(subject: _Subject) -> Finding:
    epsilon = subject.settings.epsilon
    larger = subject.radius(2 * epsilon)
    return stronger_is_stronger(
        f"epsilon {format_pixels(epsilon)}",
        subject.right_under_attack,
        f"epsilon {format_pixels(larger)}",
        subject.right(subject.attacked(subject.attack(epsilon=larger))),
    )


def _large_epsilon_breaks(subject: _Subject) -> Finding:
    epsilon = LARGE_EPSILON / subject.inscribed
    right = subject.share(subject.right(subject.attacked(subject.attack(epsilon=epsilon))))
    chance = 1 / subject.logits(subject.images).shape[1]
    return Finding(
        right.interval()[0] <= chance,
        f"epsilon {epsilon:.3g}: right on {right} of the images, chance is {chance:.1%}",
    )


def _gradients_beat_queries(subject: _Subject) -> Finding:
    return stronger_is_stronger(
        f"Square, {subject.settings.num_queries} queries",
        subject.right_under_queries,
        f"PGD, {subject.settings.num_steps} iterations",
        subject.right_under_attack,
    )


def _run_is_no_weaker(subject: _Subject, stands: Tensor) -> Finding:
    stands = stands.to(subject.labels.device)
    return stronger_is_stronger(
        "the attacks of the checks",
        subject.right_under_attack & subject.right_under_queries,
        "those of the run",
        stands,
    )


def _own_attack_beats_transfer(subject: _Subject, surrogate: nn.Module) -> Finding:
    foreign = replace(subject, oracle=GradientOracle(surrogate))
    return stronger_is_stronger(
        "PGD on the surrogate",
        subject.right(foreign.attacked(foreign.attack())),
        "PGD on the model",
        subject.right_under_attack,
    )


Symptom = Callable[[_Subject], Finding]

_SYMPTOMS: dict[str, Symptom] = {
    "outputs are logits": _outputs_are_logits,
    "two forward passes agree": _forward_passes_agree,
    "an image alone and in a batch agree": _batches_do_not_matter,
    "input gradients are not zero": _gradients_are_there,
    "logits are not saturated": _logits_are_not_saturated,
    "the attack raises the loss": _attack_raises_the_loss,
    "more iterations do not help the model": _more_iterations_do_not_help,
    "more restarts do not help the model": _more_restarts_do_not_help,
    "more epsilon does not help the model": _more_epsilon_does_not_help,
    "a huge epsilon breaks the model": _large_epsilon_breaks,
    "gradients beat queries": _gradients_beat_queries,
}
"""What is looked for, in this order."""
