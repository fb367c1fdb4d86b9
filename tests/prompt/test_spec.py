import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from palate.prompt.messages import to_chat_messages, to_generation_messages
from palate.prompt.spec import PromptSpec, runs_of, split_template


def test_the_default_prompt_is_the_guides() -> None:
    spec = PromptSpec()
    history = spec.history([{"title": "Pearl Harbor (2001)"}, {"title": "Moulin Rouge (2001)"}], [3.0, 0.5])
    example = spec.alpaca(history, spec.candidate({"title": "Money Pit, The (1986)"}), spec.label(False), 15)

    assert list(example) == ["instruction", "input", "output", "system", "history"]
    assert example["instruction"] == (
        "Predict whether the user will like the candidate movie. Answer only with Yes or No."
    )
    assert example["input"] == (
        "User's last 15 watched movies:\n"
        "1. Pearl Harbor (2001) (rating ≈ 3.0)\n"
        "2. Moulin Rouge (2001) (rating ≈ 0.5)\n"
        "\n"
        "Candidate movie:\n"
        "Money Pit, The (1986)\n"
        "\n"
        "Should we recommend this movie to the user? Answer Yes or No."
    )
    assert example["output"] == "No"
    assert example["history"] == []


def test_a_prompt_may_name_item_columns() -> None:
    spec = PromptSpec(history_line="{title} [{genres}] {rating:.0f}", candidate_line="{title} [{genres}]")
    item = {"title": "Heat", "genres": "Crime"}

    assert spec.history([item], [4.0]) == "Heat [Crime] 4"
    assert spec.candidate(item) == "Heat [Crime]"


@pytest.mark.parametrize(
    ("title", "short"),
    [
        ("Matrix, The (1999)", "The Matrix"),
        ("Postino, Il (1994)", "Il Postino"),
        ("Shanghai Triad (Yao a yao yao dao waipo qiao) (1995)", "Shanghai Triad"),
        ("(500) Days of Summer (2009)", "(500) Days of Summer"),
        ("(1984)", "(1984)"),
        ("Mug, blue", "Mug, blue"),
    ],
)
def test_a_short_title_has_no_year_and_its_article_in_front(title: str, short: str) -> None:
    spec = PromptSpec(history_line="{title:short} {rating:4|Yes|No}", candidate_line="{title:short}")

    assert spec.candidate({"title": title}) == short
    assert spec.history([{"title": title}] * 3, [4.0, 3.5, 5.0]) == f"{short} Yes\n{short} No\n{short} Yes"


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("Two words. Three more words. The rest of it.", "Two words. Three more words."),
        ("An internationalization of one and of many of a kind", "An internationalization of one and of many of…"),
        ("这是一部关于友情的电影，我们都喜欢看", "这是一部关于友情…"),
        ("好看的电影。大家都应该去看看", "好看的电影。"),
        ("ゴジラは日本の怪獣映画である", "ゴジラは日本の怪…"),
        ("ที่นี้เป็นเรื่องราวเกี่ยวกับ", "ที่นี้เป็นเรื่อ…"),
        ("a" * 3000, "a" * 48 + "…"),
    ],
)  # fmt: skip
def test_a_text_is_cut_to_eight_tokens(text: str, cut: str) -> None:
    assert PromptSpec(candidate_line="{description:cut8}").candidate({"title": "", "description": text}) == cut


def test_empty_headers_and_question_leave_no_line() -> None:
    spec = PromptSpec(history_header="", candidate_header="", candidate_line="{title}:", question="")

    assert spec.alpaca("Heat: Yes", spec.candidate({"title": "Ran"}), "No", 1)["input"] == "Heat: Yes\nRan:"


@pytest.mark.parametrize(
    "wrong",
    [
        {"history_line": "{title!r}"},
        {"history_line": "{title.x}"},
        {"history_line": "{0}"},
        {"history_line": "{title"},
        {"candidate_line": "{title} {rating}"},
        {"history_header": "{title}"},
        {"history_header": "{item_mean}"},
        {"yes": "Yes", "no": "Yes"},
        {"yes": ""},
        {"sytem": "typo"},
    ],
)
def test_a_prompt_that_cannot_be_rendered_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        PromptSpec(**wrong)


@given(st.text(alphabet="ab{}: .", max_size=12))
def test_the_parts_of_a_template_put_together_give_what_format_gives(template: str) -> None:
    values = {"a": 1.5, "b": 2.5, "ab": 3.5}
    try:
        expected = template.format(**values)
    except (KeyError, ValueError, IndexError, AttributeError):
        return
    try:
        parts = split_template(template)
    except ValueError:
        return
    assert expected == "".join(
        part.literal + ("" if part.field is None else format(values[part.field], part.format_spec)) for part in parts
    )


@given(st.lists(st.sampled_from(["{n}", "{rating:.1f}", "{item_mean}", "{item_count}", "{title}", " by ", "{{"])))
def test_the_runs_of_a_template_hold_its_parts_in_order_each_of_one_thing(pieces: list[str]) -> None:
    template = "".join(pieces)
    values = {"n": 1, "rating": 4.5, "item_mean": 3.5, "item_count": 20, "title": "Heat"}
    own = {"n": "n", "rating": "rating", "item_mean": "context", "item_count": "context", "title": "item"}
    told, before = "", ""
    for of, parts in runs_of(template):
        assert of != before or of in ("n", "rating")
        assert {own[part.field] for part in parts if part.field} == ({of} - {"literal"})
        assert of == "literal" or (parts[0].field and parts[-1].field)
        told += "".join(p.literal if p.field is None else format(values[p.field], p.format_spec) for p in parts)
        before = of
    assert told == template.format(**values)


def test_what_stands_between_two_figures_of_an_items_ratings_is_told_with_them() -> None:
    runs = runs_of("{title}: {item_mean:.1f} by {item_count} users")
    assert [(of, [p.field or p.literal for p in parts]) for of, parts in runs] == [
        ("item", ["title"]),
        ("literal", [": "]),
        ("context", ["item_mean", " by ", "item_count"]),
        ("literal", [" users"]),
    ]


def test_only_a_prompt_with_an_estimate_says_whose_it_is() -> None:
    line = "{title}, {estimate:.0%}, like {neighbour:short}"
    named, other = PromptSpec(candidate_line=line, estimate="online"), PromptSpec(estimate="online")
    assert named.model_dump()["estimate"] == "online"
    assert "estimate" not in other.model_dump()
    assert PromptSpec.model_validate(named.model_dump()) == named
    assert (named.signals, other.signals) == (("estimate", "neighbour"), ())
    shown = {"title": "Heat", "estimate": 0.7, "neighbour": "Matrix, The (1999)"}
    assert named.candidate(shown) == "Heat, 70%, like The Matrix"
    with pytest.raises(ValidationError, match=r"history_line must not name {item_deviation}"):
        PromptSpec(history_line="{title} {item_deviation}")


def test_messages_are_system_earlier_turns_question_answer() -> None:
    example = {
        "instruction": "I",
        "input": "X",
        "output": "No",
        "system": "S",
        "history": [{"role": "user", "content": "before"}, {"role": "assistant", "content": "then"}],
    }
    asked = to_generation_messages(example)

    assert [m["role"] for m in asked] == ["system", "user", "assistant", "user"]
    assert asked[-1]["content"] == "I\n\nX"
    assert to_chat_messages(example) == [*asked, {"role": "assistant", "content": "No"}]


def test_earlier_turns_may_be_llama_factorys_pairs() -> None:
    asked = to_generation_messages({"instruction": "I", "history": [["q", "a"]]})

    assert asked == [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "I"},
    ]


def test_an_example_without_system_or_input_has_neither() -> None:
    assert to_chat_messages({"instruction": "I", "input": "", "output": "Yes", "system": ""}) == [
        {"role": "user", "content": "I"},
        {"role": "assistant", "content": "Yes"},
    ]
