"""Every kind of chat template gives the same ids in training, lengths, scoring, ranking and an export."""

from pathlib import Path

import numpy as np
import pytest
from tests.examples import mostly_slow
from tests.templates.kinds import KINDS, tokenizer_of
from tests.tiny import tiny_folder, toy_config, toy_dataset, toy_tokens
from transformers import AutoTokenizer

from palate.commands.export import export
from palate.commands.prepare import chat_of
from palate.prompt.chat import Chat
from palate.prompt.messages import to_chat_messages, to_generation_messages
from palate.score.scorer import Scorer
from palate.tokens.cache import preprocess_datasets_parallel
from palate.train.finetune import train


@pytest.mark.parametrize("kind", mostly_slow(KINDS, ["dated if able", "parts, no system turn", "think block"]))
def test_the_ids_are_the_same_throughout(kind: str, tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base", tokenizer=tokenizer_of(kind))
    config = toy_config(base, run_dir=str(tmp_path / "run"), train={"epochs": 1})
    chat = chat_of(config)
    tokens, _ = toy_tokens(8, config, chat)
    examples = [tokens.example(n) for n in range(8)]
    whole = chat.encode_batch([to_chat_messages(example) for example in examples])
    rows = toy_dataset(8, config)

    assert [list(tokens[n]["input_ids"]) for n in range(8)] == [encoded.ids for encoded in whole]
    assert tokens.lengths.tolist() == [len(encoded.ids) for encoded in whole]
    kept = preprocess_datasets_parallel({"train": rows}, chat.tokenizer, config.tokens.cutoff_len)["train"]
    assert kept["input_ids"] == [chat.encode(to_chat_messages(row)).ids for row in rows]

    result = train(config, rows, None, config.run_path)
    scorer = Scorer(str(base), result.adapter)
    asked = [to_generation_messages(example) for example in examples]
    prompts = scorer.prompts(asked)
    assert prompts == tokens.prompts()
    assert all(encoded.ids[: len(ids)] == ids for encoded, ids in zip(whole, prompts, strict=True))
    history = [{"title": "x", "rating": 4.0}, {"title": "<|im_end|>", "rating": 3.5}]
    for shown in (history, history[:1]):
        together = scorer.rank_prompts(shown, ["aaaaaa", "bbbbbb", "xyz"])
        assert together == [scorer.rank_prompts(shown, [title])[0] for title in ("aaaaaa", "bbbbbb", "xyz")]
        ranked = scorer.rank(shown, ["aaaaaa", "bbbbbb", "xyz"])
        assert np.allclose(ranked.logit, scorer.score_ids(together).logit, atol=1e-4)

    folder = export(config, merge=True, adapter=result.adapter)
    assert Scorer(str(folder)).chat.decision == chat.decision
    # As it lies there, for whoever serves it.
    served = Chat(AutoTokenizer.from_pretrained(str(folder)))
    assert served.decision_prompts(asked) == prompts
    assert served.tokenizer.chat_template == chat.tokenizer.chat_template
