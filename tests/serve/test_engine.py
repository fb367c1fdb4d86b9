"""The engine's answers against the commands', which append a person's ratings to the log."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests import llamacpp
from tests.command import palate
from tests.recipes import recipe_to_evaluate
from tests.tiny import random_adapter

from palate.commands.engine import engine_of
from palate.config import Override, load_config, write_config
from palate.errors import InputError, WorkError
from palate.models.adapter import load_adapter
from palate.models.load import load_base_model
from palate.serve.engine import ALONE, BASE, FINE_TUNED, Engine, NewRating, Person, UnknownUserError

USER = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = recipe_to_evaluate(tmp_path_factory.mktemp("engine"), adapter=0.3)
    done = palate("evaluate", folder / "config.yaml")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def engine(run: Path):
    engine = engine_of(load_config(run / "config.yaml"))
    yield engine
    engine.close()


def scored(engine: Engine, model: str, person: Person, item: np.ndarray) -> dict[str, np.ndarray]:
    found = {name: np.full(item.size, np.nan) for name in ("p", "logit")}
    for part in engine.score(model, person, item):
        found["p"][part.position], found["logit"][part.position] = part.p, part.logit
    return found


def recommended(run: Path, *words: str) -> dict[int | str, tuple[float, float]]:
    """P(like) and logit by item."""
    done = palate("recommend", run / "config.yaml", *words, "--top-k", "1000", "--json")
    assert done.returncode == 0, done.stderr
    return {row["item_id"]: (row["p"], row["logit"]) for row in json.loads(done.stdout)["recommendations"]}


@pytest.mark.parametrize(("model", "words"), [(FINE_TUNED, ()), (BASE, ("--base-only",)), ("user-item", None)])
def test_a_user_gets_the_scores_of_the_command(run: Path, engine: Engine, model: str, words: tuple[str, ...]) -> None:
    expected = recommended(run, "--user", str(USER), *(("--model", model) if words is None else words))
    person = engine.person(USER, None)
    item, left_out = engine.candidates(person, None, "all", 0, include_seen=False)
    ids = engine.items["item_id"].gather(item).to_list()
    assert set(ids) == set(expected)
    assert left_out == len(person)
    found = scored(engine, model, person, item)
    for n, name in enumerate(found):
        np.testing.assert_allclose(found[name], [expected[each][n] for each in ids], atol=[2e-6, 1e-4][n])
    assert np.ptp(found["logit"]) > 0.1


@pytest.mark.parametrize(("model", "words"), [(FINE_TUNED, ()), ("history-mean", ("--model", "history-mean"))])
def test_a_stranger_gets_the_scores_of_the_command(
    run: Path, engine: Engine, tmp_path: Path, model: str, words: tuple[str, ...]
) -> None:
    ids = engine.items["item_id"].to_list()
    history = [(0, 5.0), (4, 1.0), (2, 3.5)]
    lines = ["item_id,rating", *(f"{ids[item]},{rating}" for item, rating in history)]
    (tmp_path / "history.csv").write_text("\n".join(lines) + "\n")
    expected = recommended(run, "--history", str(tmp_path / "history.csv"), *words)
    person = engine.person(None, [NewRating(*each) for each in history])
    item, _ = engine.candidates(person, None, "all", 0, include_seen=False)
    found = scored(engine, model, person, item)
    for n, name in enumerate(found):
        np.testing.assert_allclose(found[name], [expected[ids[row]][n] for row in item], atol=[2e-6, 1e-4][n])


def test_the_service_says_what_it_is(engine: Engine) -> None:
    from palate.serve.schemas import ModelAnswer

    told = ModelAnswer.model_validate(engine.about)
    assert told.default in engine.models
    assert [each.key for each in told.models][:2] == [FINE_TUNED, BASE]
    assert ALONE not in engine.models


def test_an_effect_is_the_difference_that_leaving_a_rating_out_makes(engine: Engine) -> None:
    person = engine.person(None, [NewRating(0, 5.0), NewRating(4, 1.0), NewRating(2, 5.0)])
    for model in (FINE_TUNED, BASE, "history-mean"):
        whole, effects = engine.explain(model, person, 7)
        assert [each.item for each in effects] == [0, 4, 2]
        without = scored(engine, model, person.without(1), np.array([7]))
        np.testing.assert_allclose(effects[1].effect, whole.logit[0] - without["logit"][0], atol=1e-4)
        np.testing.assert_allclose(effects[1].p_without, without["p"][0], atol=1e-5)
    assert any(abs(each.effect) > 1e-3 for each in effects)


def test_a_prompt_is_its_tokens(engine: Engine) -> None:
    person = engine.person(None, [NewRating(0, 5.0), NewRating(4, 1.0)])
    tokens, yes, no = engine.prompt(person, 7)
    text = "".join(each.text for each in tokens)
    assert text.endswith(yes + no)
    for row in (0, 4, 7):
        assert engine.items["title"][row] in text
    parts = [each.part for each in tokens]
    assert parts[-2:] == ["answer", "answer"]
    assert {"template", "text"} <= set(parts)
    titles = "".join(each.text for each in tokens if each.part == "text")
    assert engine.items["title"][7] in titles
    assert "<|im_start|>" not in titles


def test_a_prompt_with_signals_is_its_tokens(tmp_path: Path) -> None:
    path = recipe_to_evaluate(tmp_path) / "config.yaml"
    line = Override("prompt.candidate_line", "{title} {estimate:.2f} {neighbour}", "--set")
    write_config(load_config(path, [line]), path)
    config = load_config(path)
    random_adapter(config, tmp_path / "run" / "adapter", 0.3)
    assert palate("prepare", path).returncode == 0
    engine = engine_of(config)
    tokens, _, _ = engine.prompt(engine.person(USER, None), 7)
    engine.close()
    text = "".join(each.text for each in tokens if each.part == "text")
    assert re.search(re.escape(engine.items["title"][7]) + r" 0\.\d\d ", text)


def test_a_known_user_has_their_fields_in_the_prompt_and_a_history_has_none(tmp_path: Path) -> None:
    path = recipe_to_evaluate(tmp_path) / "config.yaml"
    (tmp_path / "people.csv").write_text(f"user,job\n{USER},baker\n")
    options = {"prompt.candidate_line": "{title} for a {user.job}.", "ratings.users": str(tmp_path / "people.csv")}
    write_config(load_config(path, [Override(key, value, "--set") for key, value in options.items()]), path)
    config = load_config(path)
    random_adapter(config, tmp_path / "run" / "adapter", 0.3)
    assert palate("prepare", path).returncode == 0
    engine = engine_of(config)
    newer = [NewRating(5, 4.0, 2_000_000_000)]
    people = {"baker": [engine.person(USER, None), engine.person(USER, None, newer)]}
    people["unknown"] = [
        engine.person(None, [NewRating(3, 4.0), NewRating(5, 1.0)]),
        engine.person("someone new", None, newer),
    ]
    for job, asking in people.items():
        for person in asking:
            tokens, _, _ = engine.prompt(person, 7)
            assert f"{engine.items['title'][7]} for a {job}." in "".join(each.text for each in tokens)
    engine.close()


def test_newer_ratings_follow_those_of_the_log(engine: Engine) -> None:
    person = engine.person(USER, None, [NewRating(5, 4.0, 2_000_000_000)])
    past = engine.past(person)
    assert past["stored"].to_list() == [False] * (len(person) - 1) + [True]
    assert past.row(-1) == (5, 4.0, 2_000_000_000, True)
    assert engine.person("someone new", None, [NewRating(5, 4.0)]).ratings == 1
    with pytest.raises(UnknownUserError, match="someone new"):
        engine.person("someone new", None)


def test_a_stored_rating_stands_at_its_time_among_those_of_the_log(engine: Engine) -> None:
    log = engine.past(engine.person(USER, None))
    new = next(item for item in range(engine.items.height) if item not in log["item"])
    for n in (0, 2, log.height):
        time = int(log["timestamp"][n - 1]) if n else 0
        person = engine.person(USER, None, [NewRating(new, 1.5, time)])
        past = engine.past(person)
        assert past["item"].to_list() == [*log["item"][:n], new, *log["item"][n:]]
        assert past["stored"].to_list() == [at == n for at in range(past.height)]
        for model in ("user-item", FINE_TUNED):
            _, effects = engine.explain(model, person, new)
            for back, effect in enumerate(reversed(effects), 1):
                assert effect.item == past["item"][-back]
                without = scored(engine, model, person.without(past.height - back), np.array([new]))["p"]
                assert effect.p_without == pytest.approx(without[0], abs=1e-6)


def test_a_newer_rating_of_an_item_replaces_that_of_the_log(engine: Engine) -> None:
    before = engine.past(engine.person(USER, None))
    again = int(before["item"][0])
    past = engine.past(engine.person(USER, None, [NewRating(again, 1.5, 2_000_000_000)]))
    assert past["item"].to_list() == [*before["item"].to_list()[1:], again]
    assert past["rating"].to_list()[-1] == 1.5


def test_a_model_with_damaged_numbers_does_not_begin_to_serve(engine: Engine) -> None:
    engine.warm()
    baseline, state = engine.baselines["user-item"]
    damaged = {name: np.full_like(values, np.nan) for name, values in state.items()}
    with pytest.raises(WorkError, match="'user-item' answers with numbers that are not finite"):
        replace(engine, baselines={**engine.baselines, "user-item": (baseline, damaged)}).warm()


def test_candidates_are_among_those_that_a_request_allows(engine: Engine) -> None:
    person = engine.person(USER, None)
    among = np.array([1, 3, 5, 7, 9, 11])
    rated = set(engine.past(person)["item"].to_list())
    for retriever in ("item-knn", "popularity", "all"):
        item, left_out = engine.candidates(person, among, retriever, 100, include_seen=False)
        assert sorted(item.tolist()) == sorted(set(among.tolist()) - rated)
        assert left_out == len(set(among.tolist()) & rated)
        some, _ = engine.candidates(person, None, retriever, 2, include_seen=True)
        assert some.size == (engine.items.height if retriever == "all" else 2)


def test_a_language_model_in_llama_cpp_answers_as_the_one_in_this_process(
    run: Path, engine: Engine, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp's server is not installed: pip install xllamacpp")
    base, tokenizer = load_base_model(load_config(run / "config.yaml").model)
    merged = load_adapter(base, run / "run" / "adapter").merge_and_unload()
    model = llamacpp.write_gguf(merged, tokenizer, tmp_path / "merged.gguf")
    person = engine.person(USER, None)
    item, _ = engine.candidates(person, None, "all", 0, include_seen=False)
    with llamacpp.serving(model, "tiny") as url:
        config = load_config(run / "config.yaml")
        config = config.model_copy(
            update={"score": config.score.model_copy(update={"server": url, "served_model": "tiny"})}
        )
        served = engine_of(config)
        assert BASE not in served.models
        found = scored(served, FINE_TUNED, person, item)
        served.close()
    expected = scored(engine, FINE_TUNED, person, item)
    np.testing.assert_allclose(found["logit"], expected["logit"], atol=1e-3)
    np.testing.assert_allclose(found["p"], expected["p"], atol=1e-5)
    merged.model.layers[0].mlp.down_proj.weight.data.zero_()
    other = llamacpp.write_gguf(merged, tokenizer, tmp_path / "other.gguf")
    with llamacpp.serving(other, "tiny") as url:
        config = config.model_copy(update={"score": config.score.model_copy(update={"server": url})})
        with pytest.raises(InputError, match=r"logits of 8 validation prompts are up to .* from those of the run's"):
            engine_of(config)


def test_candidates_share_the_history_that_the_cutoff_leaves_them(engine: Engine) -> None:
    person, language = engine.person(USER, None), engine.language
    assert language is not None
    item = np.arange(engine.items.height)
    whole, shared = language.prompts(person, item, None, 0)
    assert len(set(shared)) == 1
    cutoff = sorted(map(len, whole))[len(whole) // 2] + 1 + len(language.chat.decision.tail)
    tight = replace(language, options=replace(language.options, cutoff_len=cutoff, truncation="history"))
    prompts, shared = tight.prompts(person, item, None, 0)
    prefixes = {tuple(prompt[:n]) for prompt, n in zip(prompts, shared, strict=True)}
    assert max(map(len, prompts)) < min(map(len, whole)), "histories were cut"
    assert len(prefixes) < 5
    assert min(shared) > min(map(len, prompts)) / 2
    alone = [tight.prompts(person, item[row : row + 1], None, 0) for row in range(0, item.size, 5)]
    assert {tuple(one[0][: n[0]]) for one, n in alone} <= prefixes


def test_prompts_are_written_in_blocks_until_nobody_waits(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    person, item = engine.person(USER, None), np.arange(engine.items.height)
    whole = engine.language.prompts(person, item, None, 0)
    monkeypatch.setattr("palate.serve.language.BLOCK", 7)
    looks = iter([False, False, True])

    assert engine.language.prompts(person, item, None, 0) == whole
    assert engine.language.prompts(person, item, None, 0, lambda: next(looks)) == ([], [])
    assert next(looks, None) is None
    assert list(engine.score(BASE, person, item, lambda: True)) == []
