"""The synthetic images on their way: what an iteration does, and when the host looks at what came of it."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cuda_graphs import RepeatedWork
from ..parallel import ahead, available_cores
from ..plans import Packed, on_device, pack
from ..synthetic.gradients import summed
from ..synthetic.optimizer import ImageOptimizer
from .objective import Objective

MOST_UNREAD = 256  # iterations
SECONDS_UNREAD = 0.2  # about as long until the host looks again, and so until it answers a request to stop
PLANNERS = 8  # threads at most, as a ResNet-18 alone takes one of them 0.2 s to draw


def works_alone(device: torch.device) -> bool:
    """Whether the host gains by leaving the device alone for several iterations."""
    return device.type != "cpu"


class IterationPlan(NamedTuple):
    """What the host decides for an iteration: of the objective, and for the step along its gradients."""

    objective: Any
    corrections: Tensor


class Found(NamedTuple):
    """What an iteration finds beside the images: of the classes that the objective takes, or of all.

    Attributes:
        losses: as in `ImageGradients`.
        ratios: [K], see `ImageOptimizer.move_`.
        broken: the classes with a gradient that is not finite.
    """

    losses: Tensor
    ratios: Tensor | None
    broken: list[int]


class Outcome(NamedTuple):
    """What came of the iterations since the last look.

    Attributes:
        losses: the terms of each that moved the images.
        broken: the classes whose gradient was not finite in the one after these; mostly none.
        seconds: an iteration took.
    """

    losses: list[list[float]]
    broken: list[int]
    seconds: float


class Descent:
    """Moves `images` [N, 3, h, w] in place, an iteration at a time, along the gradients of `objective`.

    On the CPU the host looks after every iteration. A GPU is left alone: threads of the host plan the
    iterations to come, one after another is queued, and the host looks every so often. A gradient that is not
    finite moves nothing, neither images nor what is learnt beside them, in its own iteration or in those that
    were queued behind it.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: ImageOptimizer,
        images: Tensor,
        by_domain: bool,
        agree: Callable[[Found], Callable[[], Found]] | None = None,
    ) -> None:
        """`agree` begins to make of what is found of some classes what is found of all, where others are
        moved in other processes; its result waits for them. An iteration later is soon enough, so that a
        process which is slow for once delays no other. The host looks after every iteration then."""
        self.objective, self.optimizer, self.images = objective, optimizer, images
        self.by_domain, self.agree = by_domain, agree
        self.classes = classes = optimizer.classes
        self.moving = [images, *optimizer.state.values(), *objective.state.values()]
        self.alone = works_alone(images.device) and agree is None and not optimizer.reads_losses
        self.most_unread, self.unread, self.since = 1, 0, 0.0
        self.agreeing: deque[Callable[[], Found]] = deque()
        device = images.device
        self.count = torch.zeros(1, dtype=torch.int64, device=device)  # of the losses there are to read
        self.losses = torch.zeros(MOST_UNREAD, len(objective.terms), device=device)
        self.broken = torch.zeros(classes, dtype=torch.bool, device=device)
        self.repeated: RepeatedWork | None = None
        if self.alone and device.type == "cuda":
            self.repeated = RepeatedWork(self._prepare, self._work, device)

    def iterations(self, numbers: range) -> Iterator[int]:
        """Does the iterations, or has the device do them; yields after each how many are done."""
        planners = min(PLANNERS, max(1, available_cores() - 1)) if self.alone else 0
        with contextlib.closing(ahead(self._plan, numbers, planners)) as plans:
            for number in numbers:
                if not self.unread:
                    self.since = time.perf_counter()
                self._run(next(plans))
                self.unread += 1
                self._agree(0 if self.optimizer.reads_losses else 1)
                yield number + 1

    @property
    def due(self) -> bool:
        """Whether it is time to look."""
        return self.unread >= self.most_unread

    def look(self, to_the_end: bool = True) -> Outcome:
        """What came of the iterations since the last look, which waits for the device to have done them.

        Where other processes move classes, the last iteration is left to the next look, unless `to_the_end`.
        """
        if to_the_end:
            self._agree(0)
        with contextlib.nullcontext() if self.repeated is None else torch.cuda.stream(self.repeated.stream):
            flat = [self.count.to(self.losses), self.broken.to(self.losses), self.losses.flatten()]
            count, *rest = torch.cat(flat).cpu().tolist()
            self.count.zero_()
        broken = [label for label in range(self.classes) if rest[label]]
        terms = self.losses.shape[1]
        first = self.classes
        losses = [rest[first + terms * row : first + terms * (row + 1)] for row in range(int(count))]
        seconds = (time.perf_counter() - self.since) / max(1, self.unread)
        self.unread = 0
        if self.alone:
            self.most_unread = max(1, min(MOST_UNREAD, round(SECONDS_UNREAD / seconds)))
        return Outcome(losses, broken, seconds)

    def _plan(self, iteration: int) -> IterationPlan | Packed:
        plan = IterationPlan(self.objective.plan(iteration), self.optimizer.corrections(iteration))
        return plan if self.repeated is None else pack(plan, pinned=True)

    def _run(self, plan: IterationPlan | Packed) -> None:
        if self.repeated is not None and isinstance(plan, Packed):
            self.repeated.run(plan)
            return
        plan = on_device(plan, self.images.device)
        self._prepare(plan)
        self._work(plan)

    def _prepare(self, plan: Any) -> None:
        self.objective.prepare(plan.objective)

    def _work(self, plan: Any) -> None:
        """All that the device does in an iteration; captured and repeated where that can be done."""
        gradients = self.objective.gradients_with(self.images, plan.objective, self.by_domain)
        taken = self.objective.classes
        finite = gradients.finite_classes(taken.stop - taken.start)
        if not self.alone:
            broken = [taken.start + label for label, whole in enumerate(finite.tolist()) if not whole]
            ratios = None if broken else self.optimizer.move_(self.images, gradients, plan.corrections)
            found = Found(gradients.losses, ratios, broken)
            if not broken:
                self.objective.after_step(plan.objective)
            if self.agree is None:
                self._take(found)
            else:
                self.agreeing.append(self.agree(found))
            return
        self.broken |= ~finite & ~self.broken.any()  # of the first iteration that has any
        sound = ~self.broken.any()
        before = [part.clone() for part in self.moving]
        ratios = self.optimizer.move_(self.images, gradients, plan.corrections)
        self._note(gradients.losses, ratios)
        self.objective.after_step(plan.objective)
        for part, old in zip(self.moving, before, strict=True):
            part.copy_(torch.where(sound, part, old))
        self.count += sound

    def _agree(self, left: int) -> None:
        """Waits for what all processes have found in all iterations but the last `left`."""
        while len(self.agreeing) > left:
            self._take(self.agreeing.popleft()())

    def _take(self, found: Found) -> None:
        """Notes what is found in an iteration, unless an earlier one had a gradient that is not finite."""
        if not self.broken.any():
            self.broken[found.broken] = True
            if not found.broken:
                self._note(found.losses, found.ratios)
                self.count += 1

    def _note(self, losses: Tensor, ratios: Tensor | None) -> None:
        terms = summed(losses)
        self.losses.index_copy_(0, self.count, terms[None].to(self.losses))
        self.optimizer.note(terms, ratios)
