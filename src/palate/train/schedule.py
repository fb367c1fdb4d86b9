"""Schedule: the samples of every optimizer step, device and forward pass, computed before training.

A step has `samples_per_step` labelled samples on any number of devices. Prompts with several targets stay whole where
possible: leftover samples fill steps of their own. `share_out` divides a step among the devices, and `pack_passes`
packs each share into forward passes of at most `tokens_per_batch` tokens. The schedule depends on the seed and the
step's number only, so a run can resume at any step and on another number of devices.
"""

import math
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from palate.config import Config, TrainConfig
from palate.tokens.packed import Longs
from palate.tokens.shared import SharedHistory
from palate.train.training_prompts import TrainingPrompts


class Pass(NamedTuple):
    """One forward and backward pass: `pieces` (k, 2) int64 as `SharedHistory.pack` takes them.

    `counts` is false for padding: all devices must make the same number of passes.
    """

    pieces: Longs
    counts: bool


@dataclass(frozen=True)
class Schedule:
    """The steps of a run. Only a single sequence may be longer than `tokens_per_batch`."""

    prompts: SharedHistory
    samples_per_step: int
    tokens_per_batch: int
    seed: int
    epochs: float = 1.0
    max_steps: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps that train every sample once; the last may have fewer samples."""
        return math.ceil(self.prompts.order.size / self.samples_per_step)

    @property
    def steps(self) -> int:
        """Number of steps of the run."""
        return self.max_steps or math.ceil(self.epochs * self.steps_per_epoch)

    def samples_in(self, steps: int) -> int:
        """Labelled samples of the first `steps` steps, with repetitions."""
        size = self.prompts.order.size
        epochs, place = divmod(steps, self.steps_per_epoch)
        return int(epochs * size + min(place * self.samples_per_step, size))

    def pieces(self, step: int) -> Longs:
        """The pieces of step `step` (from 0), (k, 2) int64."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[place]

    def passes(self, step: int, rank: int = 0, world: int = 1) -> list[Pass]:
        """The forward passes of device `rank` of `world` in step `step`; every device has the same number."""
        shares = share_out(self.prompts, self.pieces(step), world)
        packed = [pack_passes(self.prompts, share, self.tokens_per_batch) for share in shares]
        most = max(map(len, packed))
        mine = [Pass(pieces, True) for pieces in packed[rank]]
        if not mine:  # fewer samples than devices
            mine.append(Pass(self._smallest(shares), False))
        smallest = self._smallest([mine[-1].pieces])
        return mine + [Pass(smallest, False)] * (most - len(mine))

    def trained(self, step: int) -> int:
        """Labelled tokens of a step, on all devices."""
        sums = self._trained_before
        begin, end = self.pieces(step).T
        return int((sums[end] - sums[begin]).sum())

    @cached_property
    def _trained_before(self) -> Longs:
        return np.concatenate([[0], np.cumsum(self.prompts.trained)])

    def _smallest(self, shares: list[Longs]) -> Longs:
        """The first sequence of the shortest piece, as padding."""
        pieces = np.concatenate(shares)
        begin = int(pieces[self.prompts.tokens(pieces).argmin(), 0])
        return np.array([[begin, begin + 1]])

    def _epoch(self, epoch: int) -> list[Longs]:
        known = self.__dict__.get("_known")
        if known is None or known[0] != epoch:
            known = epoch, fill_steps(self.prompts.pieces(), self.samples_per_step, [self.seed, epoch])
            self.__dict__["_known"] = known  # a frozen dataclass takes no attribute
        return known[1]


def schedule_of(config: Config, prompts: TrainingPrompts) -> Schedule:
    """The schedule of a config."""
    options, train = config.train, prompts.train
    samples = samples_in_step(options, int(train.tokens(train.pieces()).sum()) / train.order.size)
    # Splitting a prompt repeats its history, so only an explicit `tokens_per_batch` splits one.
    whole = int(train.tokens(_at_most(train.pieces(), samples)).max())
    return Schedule(
        train,
        samples,
        options.tokens_per_batch or max(options.batch_size * int(train.needed.max()), whole),
        config.train_seed,
        options.epochs,
        options.max_steps,
    )


def samples_in_step(options: TrainConfig, tokens: float) -> int:
    """The labelled samples of a step, of `tokens` tokens each on average; whole prompts if it has room for several."""
    if options.tokens_per_step is None:
        return options.samples_per_step
    targets = options.targets_per_prompt
    whole = round(options.tokens_per_step / tokens / targets) * targets
    return whole or max(1, round(options.tokens_per_step / tokens))


def rate_of(options: TrainConfig, samples: int) -> float:
    """The peak learning rate with this many samples a step, by AdamW's rule of the square root (arXiv 2205.10287)."""
    return options.learning_rate * math.sqrt(samples / options.samples_per_step)


def fill_steps(prompts: Longs, samples: int, seed: int | list[int]) -> list[Longs]:
    """Draw the prompts (p, 2) into steps of exactly `samples` samples, the last one of what is left.

    Prompts of a size that divides a step fill steps among themselves. The others are laid together, the largest first
    that leaves no room or room for another, and one is cut in two where none has room.
    """
    draw = np.random.default_rng(seed)
    pieces = draw.permutation(_at_most(prompts, samples))
    size = pieces[:, 1] - pieces[:, 0]
    steps: list[Longs] = []
    left: dict[int, deque[Longs]] = {}
    for of in np.unique(size)[::-1].tolist():
        mine = pieces[size == of]
        whole = len(mine) // (samples // of) * (samples // of) if samples % of == 0 else 0
        steps += list(mine[:whole].reshape(-1, samples // of, 2)) if whole else []
        left[of] = deque(mine[whole:])
    remaining = sum(of * len(mine) for of, mine in left.items())
    while remaining:
        room, step = min(samples, remaining), []
        while room:
            there = sorted((of for of, mine in left.items() if mine), reverse=True)
            fits = [of for of in there if of <= room]
            filling = [of for of in fits if room - of in (0, *there) and (2 * of != room or len(left[of]) > 1)]
            of = (filling or fits or there[-1:])[0]
            piece = left[of].popleft()
            if of > room:
                middle = int(piece[0]) + room
                left.setdefault(of - room, deque()).append(np.array([middle, piece[1]]))
                piece, of = np.array([piece[0], middle]), room
            step.append(piece)
            room, remaining = room - of, remaining - of
        steps.append(np.array(step))
    count = [int((step[:, 1] - step[:, 0]).sum()) for step in steps]
    last = [n for n, c in enumerate(count) if c < samples]  # one at most
    order = draw.permutation([n for n, c in enumerate(count) if c == samples])
    return [steps[n] for n in [*order.tolist(), *last]]


def share_out(prompts: SharedHistory, pieces: Longs, world: int) -> list[Longs]:
    """Divide a step among `world` devices by tokens; splits long prompts.

    A device without any sample gets (0, 2) pieces.
    """
    if world == 1:
        return [pieces]
    parts = [tuple(piece) for piece in pieces.tolist()]
    cost = dict(zip(parts, prompts.tokens(pieces).tolist(), strict=True))
    # Halve prompts of more than 1.25 shares of a device, while any has two samples.
    while True:
        largest = max(cost, key=lambda part: (cost[part], part))
        splits = [part for part in cost if part[1] - part[0] > 1]
        if len(cost) >= world and cost[largest] * world <= 1.25 * sum(cost.values()):
            break
        if not splits or (len(cost) >= world and largest not in splits):
            break
        part = largest if largest in splits else max(splits, key=lambda part: (cost[part], part))
        middle = (part[0] + part[1]) // 2
        del cost[part]
        for half in ((part[0], middle), (middle, part[1])):
            cost[half] = int(prompts.tokens([half])[0])
    shares: list[list[tuple[int, ...]]] = [[] for _ in range(world)]
    loads = [0] * world
    for part in sorted(cost, key=lambda part: (-cost[part], part)):
        rank = loads.index(min(loads))
        shares[rank].append(part)
        loads[rank] += cost[part]
    return [np.array(share, np.int64).reshape(-1, 2) for share in shares]


def pack_passes(prompts: SharedHistory, pieces: Longs, budget: int) -> list[Longs]:
    """Pack pieces into forward passes of at most `budget` tokens (first-fit decreasing).

    Longer prompts are split; a longer sequence gets its own pass.
    """
    fitting: list[tuple[int, int, int]] = []
    waiting = deque(pieces.tolist())
    while waiting:
        begin, end = waiting.popleft()
        tokens = int(prompts.tokens([[begin, end]])[0])
        if tokens > budget and end - begin > 1:
            middle = (begin + end) // 2
            waiting.extendleft([[middle, end], [begin, middle]])
        else:
            fitting.append((tokens, begin, end))
    passes: list[list[list[int]]] = []
    loads: list[int] = []
    for tokens, begin, end in sorted(fitting, key=lambda piece: (-piece[0], piece[1])):
        place = next((n for n, load in enumerate(loads) if load + tokens <= budget), None)
        if place is None:
            passes.append([])
            loads.append(0)
            place = len(passes) - 1
        passes[place].append([begin, end])
        loads[place] += tokens
    return [np.array(each, np.int64) for each in passes]


def _at_most(prompts: Longs, samples: int) -> Longs:
    """Cut prompts of more than `samples` samples into parts of at most `samples`."""
    size = prompts[:, 1] - prompts[:, 0]
    if not (size > samples).any():
        return prompts
    parts = -(-size // samples)
    number = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    begin = np.repeat(prompts[:, 0], parts) + number * samples
    return np.column_stack([begin, np.minimum(begin + samples, np.repeat(prompts[:, 1], parts))])
