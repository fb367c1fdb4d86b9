"""The loops in NumPy against the compiled ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.titles import TITLES
from tests.tokens.test_dataset import PROMPTS, TOKENIZERS, composed, samples_of
from tests.tokens.test_shared import with_users

from palate.prompt.chat import Chat
from palate.tokens import kernel, loops, numpy_kernel
from palate.tokens.dataset import TokenDataset
from palate.tokens.fragments import LEFT, MIDDLE, OVERREAD, RIGHT
from palate.tokens.shared import SharedHistory
from palate.tokens.tables import read_only


def in_numpy(patch: pytest.MonkeyPatch) -> None:
    for name in loops.__all__:
        patch.setattr(loops, name, getattr(numpy_kernel, name))


def everything(dataset: TokenDataset) -> list[Any]:
    """All that is composed of a dataset, and of its prompts of several targets."""
    backwards = dataset.ragged(np.arange(len(dataset))[::-1])
    shared = SharedHistory(dataset, 3)
    packed = shared.pack(shared.pieces()[::2])
    return [*dataset.ragged(), *backwards, packed.input_ids, packed.targets, shared.prefix, shared.lengths]


@pytest.mark.parametrize("options", [{}, {"train_on": "answer"}, {"truncation": "history"}], ids=str)
@pytest.mark.parametrize("prompt", ["guide", "rating first", "many fields", "counted"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_samples_are_composed_the_same_without_a_compiler(
    name: str, prompt: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, samples = PROMPTS[prompt], with_users(samples_of(TITLES[:60]))
    chat = Chat(TOKENIZERS[name], spec.yes, spec.no)
    whole = composed(samples, spec, chat, tmp_path)["train"]
    cutoff = int(np.quantile(whole.lengths, 0.4))
    dataset = composed(samples, spec, chat, tmp_path, **{"cutoff_len": cutoff, **options})["train"]
    compiled = everything(dataset)
    in_numpy(monkeypatch)
    for got, wanted in zip(everything(dataset), compiled, strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert got.dtype == wanted.dtype


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    samples=st.integers(0, 9),
    side=st.sampled_from([LEFT, RIGHT, MIDDLE]),
    answer=st.integers(-1, 0),
    block=st.integers(1, 4),
)
def test_loops_agree_on_any_program(seed: int, samples: int, side: int, answer: int, block: int) -> None:
    draw = np.random.default_rng(seed)
    rows, programs = 12, 4
    count = draw.integers(0, 6, programs)
    first = np.concatenate([[0], np.cumsum(count)])
    masks = draw.choice([0, 3, 7], int(first[-1]))
    steps = np.column_stack(
        [draw.integers(-3, 1, masks.size), draw.integers(0, 9, masks.size), draw.integers(0, 5, masks.size), masks]
    )
    length = draw.integers(0, 40, 16).astype(np.int32)
    start = np.cumsum(length, dtype=np.int64) - length
    tokens = draw.integers(0, 1000, int(length.sum()) + OVERREAD).astype(np.int32)
    word = draw.integers(0, 1 << 8, rows)
    position, target = draw.integers(3, rows, (2, samples))
    program = draw.integers(0, programs, samples)
    sizes = draw.integers(0, 50, 3)
    plain_start = np.concatenate([[0], np.cumsum(sizes)])
    plain_tokens = draw.integers(0, 1000, int(sizes.sum())).astype(np.int32)
    plain = np.where(draw.random(samples) < 0.3, draw.integers(0, 3, samples), -1)
    inputs = [read_only(a) for a in (word, position, target, program, steps, first, length)]

    measured = np.empty((2, samples, 2), np.int32)
    kernel.measure(*inputs, measured[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numpy_kernel, "BLOCK", block)
        numpy_kernel.measure(*inputs, measured[1])  # type: ignore[arg-type]
        np.testing.assert_array_equal(*measured)

        whole = np.where(plain < 0, measured[0, :, 1], sizes[plain]).astype(np.int32)
        kept = draw.integers(0, whole + 1).astype(np.int32)
        at = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])
        out = np.full((2, int(at[-1]) + OVERREAD), -7, np.int32)
        for loop, ids in zip((kernel.compose, numpy_kernel.compose), out, strict=True):
            loop(
                word, position, target, program, plain, steps, first, start, length, tokens, plain_start, plain_tokens,
                whole, kept, side, ids, at,
            )  # fmt: skip
    np.testing.assert_array_equal(*out[:, : at[-1]])

    ids, response = out[0, : at[-1]].copy(), np.minimum(kept, 3)
    if answer < 0 or (response > 0).all():
        labels = np.zeros((2, ids.size), np.int32)
        kernel.label(ids, at, kept, response, answer, labels[0])
        numpy_kernel.label(ids, at, kept, response, answer, labels[1])
        np.testing.assert_array_equal(*labels)
