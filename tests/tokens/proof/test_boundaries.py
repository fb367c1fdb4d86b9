import json
import sys
import unicodedata
from functools import lru_cache
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples
from tests.small import all_small
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from palate.errors import InputError, WorkError
from palate.prompt.tokenizer import load_tokenizer
from palate.tokens.proof.boundaries import Boundaries, inert, stable
from palate.tokens.proof.regex import Pattern, Refused

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K = (
    r"(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KIMI = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{L}&&[^\p{Han}]]+|\p{N}{1,3}|[^\s\p{L}\p{N}]+|\s+"
SPLIT = pre_tokenizers.Split
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
ALONE = {
    "gpt2 with a prefix": (None, pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "cl100k": (None, SPLIT(Regex(CL100K), "isolated")),
    "o200k": (normalizers.NFC(), SPLIT(Regex(O200K), "isolated")),
    "deepseek": (
        None,
        pre_tokenizers.Sequence(
            [
                SPLIT(Regex(r"\p{N}{1,3}"), "isolated"),
                SPLIT(Regex("[一-龥\u3040-ゟ゠-ヿ]+"), "isolated"),
                SPLIT(Regex(DEEPSEEK), "isolated"),
                BYTES,
            ]
        ),
    ),
    "kimi": (normalizers.NFKC(), SPLIT(Regex(KIMI), "isolated", invert=True)),
    "falcon": (
        None,
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Punctuation("contiguous"),
                pre_tokenizers.ByteLevel(),
                pre_tokenizers.Digits(),
                SPLIT(Regex("[0-9][0-9][0-9]"), "isolated"),
            ]
        ),
    ),
    "bloom": (None, SPLIT(Regex(r" ?[^(\s|[.,!?…。，、।۔،])]+"), "isolated")),
    "words removed": (normalizers.BertNormalizer(), SPLIT(Regex(r"\s+(?!\S)|'s|\d\d?"), "removed")),
    "words kept": (normalizers.Nmt(), SPLIT(Regex(r"\w+|(?>\s)+"), "removed", invert=True)),
    "merged with previous": (None, SPLIT(Regex(r"\r?\n|[.,]$|\p{N}{2}"), "merged_with_previous")),
    "merged with next": (None, SPLIT(Regex(r"\s|'s|(?:ab?)+c"), "merged_with_next")),
    "contiguous": (None, SPLIT(Regex(r"\s|\d{1,2}(?=\s)|(?i:st)"), "contiguous")),
    "a string": (normalizers.StripAccents(), SPLIT(". ", "isolated")),
    "whitespace": (normalizers.Sequence([normalizers.NFD(), normalizers.Strip()]), pre_tokenizers.Whitespace()),
    "t5": (
        normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex(" {2,}"), " ")]),
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
    ),
    "metaspace, then digits": (
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.NFKD(), normalizers.StripAccents()]),
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Metaspace(split=False),
                pre_tokenizers.Digits(individual_digits=True),
                SPLIT(Regex(r"▁+(?!▁)|[^▁]+"), "isolated"),
            ]
        ),
    ),
    "punctuation": (normalizers.Replace("``", '"'), pre_tokenizers.Punctuation("merged_with_previous")),
    "runs replaced": (normalizers.Replace(Regex(" {2}|ab|aa"), " "), SPLIT(Regex(" |[0-9]"), "isolated")),
    "accents stripped": (normalizers.StripAccents(), pre_tokenizers.Whitespace()),
    "possessive": (None, SPLIT(Regex(r"\s?+\s|a{1,2}+b|\w{,2}x|(?:\d|\d\s)++"), "isolated")),
}
NAMES = [*ALONE, "white", "white in normal form", *all_small(), "qwen3", "smollm2"]


@lru_cache
def tokenizer(name: str) -> Tokenizer:
    if name in ALONE or name.startswith("white"):
        normalizer, pre_tokenizer = ALONE.get(name, (None, pre_tokenizers.ByteLevel()))
        # Each piece is one unknown word: a token then is all that any model sees at once.
        alone = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
        alone.normalizer, alone.pre_tokenizer = normalizer, pre_tokenizer
        if name == "white":
            alone.add_tokens([AddedToken(text, normalized=False) for text in ("  ", "   ", "\t\t", "\n\n", "\t \n")])
        if name == "white in normal form":
            alone.normalizer = normalizers.Replace("\t", " ")
            alone.pre_tokenizer = SPLIT(Regex(r"\s"), "isolated")
            alone.add_tokens([AddedToken(text, normalized=True) for text in ("\t ", "\n\t")])
        return alone
    try:
        whole = all_small()[name] if name in all_small() else load_tokenizer(name)
    except (InputError, WorkError) as error:
        pytest.skip(str(error))
    state = json.loads(whole.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].strip("\n▁")]
    state["post_processor"] = None  # it would trim the spaces off the offsets
    return Tokenizer.from_str(json.dumps(state))


@lru_cache
def boundaries(name: str) -> Boundaries:
    return Boundaries(tokenizer(name))


SCRAPS = [
    *" \n\r\t\u00a0\u3000\u200d\u0085",
    *["  ", "\n\n", "\r\n", " \n", "\t \n", "▁", "▁▁", "``", "\x00", "\u200b"],
    *"aAbBcxsStTlLdD019.,:;!?()[]{}'\"’`-–&/|<>=≈_#$…",
    *["'s", "'S", "'ll", "st", "ﬆ", "ſ", "K", "ß", "1999", "٣", "½", "²"],
    *"éÉñÅİǅªΑΣς中村のガｶ가각あ아",
    *["e\u0301", "\u0301", "\u0338", "\u3099", "ﾞ", "\u1100\u1161", "\u11a8", "\u0600", "\u0e33"],
    *["😀", "👍🏽", "👩\u200d👧", "\ufe0f", "שלום", "مرحبا", "\u202e", "हि", "\U0001f1eb", "\u0378"],
    *["the", "Toy Story", " (1995)", " 3", "\n2"],
]
texts = st.lists(st.sampled_from(SCRAPS), min_size=1, max_size=10).map("".join)


def sides(tokenizer: Tokenizer, text: str, cut: int) -> tuple[list[tuple], list[tuple]]:
    """The tokens that begin before a cut, placed from the text's start, and after it, placed from the cut."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    rows = list(zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True))
    for _, token, (begin, end) in rows:
        assert not begin < cut < end, f"{token!r} spans the cut {text[:cut]!r} + {text[cut:]!r}"
    left = [row for row in rows if row[2][0] < cut]
    return left, [(i, token, (begin - cut, end - cut)) for i, token, (begin, end) in rows[len(left) :]]


def check(tokenizer: Tokenizer, proved: Boundaries, text: str, other: str, before: int, after: int) -> None:
    """At every cut of `text` that is proved, compare the sides with those in other texts."""
    for cut in range(1, len(text)):
        right = text[cut : cut + after]
        if not proved.safe(text[max(0, cut - before) : cut], right):
            continue
        left_tokens, right_tokens = sides(tokenizer, text, cut)
        assert left_tokens == sides(tokenizer, text[: cut + 1], cut)[0]
        for n in range(1, len(other) + 1):
            if proved.safe(other[max(0, n - before) : n], right):
                assert right_tokens == sides(tokenizer, other[:n] + text[cut:], n)[1]


@pytest.mark.parametrize("name", NAMES)
@examples(60)
@given(texts, texts, st.integers(1, 3), st.integers(1, 3))
def test_no_token_spans_a_safe_cut_and_neither_side_depends_on_the_other(
    name: str, text: str, other: str, before: int, after: int
) -> None:
    check(tokenizer(name), boundaries(name), text, other, before, after)


@pytest.mark.parametrize(
    ("name", "cut", "safe"),
    [
        ("qwen3", ". T", True),
        ("qwen3", ")\n", False),
        ("qwen3", "\n2", True),
        ("qwen3", "≈ 3", True),
        ("qwen3", " 3", True),
        ("smollm2", " 3", False),
        ("qwen3", "0)", True),
        ("qwen3", ") (", True),
        ("qwen3", "的 T", True),
        ("qwen3", "😀 T", True),
        ("qwen3", ":\t", True),
        ("qwen3", "ab", False),
        ("qwen3", "a\u0301", False),
        ("smollm2", ")\n", True),
        ("cl100k", "0)", True),
        ("cl100k", "12", False),
        ("o200k", "a A", True),
        ("o200k", "aA", False),
        ("o200k", "a's", False),
        ("deepseek", ". T", True),
        ("deepseek", "村 T", True),
        ("deepseek", "5.", True),
        ("wordpiece", "a b", True),
        ("wordpiece", "ab", False),
        ("unigram", ". T", True),
        ("unigram", "ab", False),
        ("t5", ". T", True),
        ("sentencepiece_bpe", ". T", True),
        ("sentencepiece_bpe", "\n(", False),  # the added token "\n\n" may end there
        ("sentencepiece_bpe", ")\n(", True),
        ("phi3_like", ") |", True),
        ("phi3_like", "(\u0378", False),
        ("whitespace", "a ", False),  # stripped if no more follows
        ("accents stripped", "a.", True),
        ("accents stripped", "\u0301.", False),
        ("runs replaced", "1c", True),
        ("runs replaced", "ac", False),
        ("runs replaced", "  ", False),
        ("white in normal form", "x\r", True),
        ("white in normal form", "\n ", False),
        ("white", ". T", True),
        ("white", ".  T", False),
    ],
)
def test_usual_cuts_are_proved_and_others_not(name: str, cut: str, safe: bool) -> None:
    at = 2 if cut.startswith(")\n(") else 1
    assert boundaries(name).safe(cut[:at], cut[at:]) is safe


@pytest.mark.parametrize("name", NAMES)
def test_something_is_proved_for_every_kind(name: str) -> None:
    proved = boundaries(name)
    assert proved.reason is None
    assert proved.describe()
    # The string ". " alone is never sure to split.
    assert name == "a string" or any(proved.safe(a, b) for a in " .)\n▁1" for b in " a(-")


def test_the_cut_lies_beside_the_given_characters_only() -> None:
    assert not boundaries("qwen3").safe("", " T")
    assert not boundaries("qwen3").safe(".", "")
    # What follows an "e" may be an accent that joins it.
    assert not boundaries("kimi").safe("1", "e")
    assert boundaries("kimi").safe("1", "ex")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        # An empty character map: its length in four bytes, then no texts.
        ({"normalizer": normalizers.Precompiled(bytes(4 + 4))}, "normalizer Precompiled"),
        ({"pre_tokenizer": pre_tokenizers.UnicodeScripts()}, "pre-tokenizer UnicodeScripts"),
        ({"pre_tokenizer": None}, "no pre-tokenizer splits the text before the WordLevel"),
        ({"pre_tokenizer": pre_tokenizers.PreTokenizer.custom(str)}, "unsupported component PreTokenizer"),
    ],
)
def test_what_is_not_known_is_refused_with_a_reason(change: dict, reason: str) -> None:
    changed = Tokenizer.from_str(tokenizer("whitespace").to_str())
    for part, value in change.items():
        setattr(changed, part, value)
    refused = Boundaries(changed)
    assert reason in (refused.reason or "")
    assert refused.describe() == refused.reason
    assert not refused.safe(".", " T")


def test_a_tokenizer_that_truncates_is_refused() -> None:
    short = Tokenizer.from_str(tokenizer("whitespace").to_str())
    short.enable_truncation(8)
    assert "truncates" in (Boundaries(short).reason or "")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_ahead_decides_the_tokens_left_of_a_safe_cut(name: str) -> None:
    proved, whole = boundaries(name), tokenizer(name)
    left: dict[tuple[str, Any], list[int]] = {}
    checked = 0
    for before, after in product(
        ["a.", "x)\n", "a ", "1", "é\n\n", "a  "], ["To", " o", "\nb", "3.", "(x", "七x", "  y"]
    ):
        if not proved.safe(before, after):
            continue
        text = f"z {before}{after} z"
        encoding = whole.encode(text, add_special_tokens=False)
        ids = [n for n, (begin, _) in zip(encoding.ids, encoding.offsets, strict=True) if begin < 2 + len(before)]
        assert left.setdefault((before, proved.ahead(before, after)), ids) == ids
        checked += 1
    assert checked or name == "a string"


def test_random_merges_are_refused() -> None:
    dropping = Tokenizer(models.BPE(dropout=0.1))
    dropping.pre_tokenizer = pre_tokenizers.Whitespace()
    assert "dropout" in (Boundaries(dropping).reason or "")


def test_a_character_that_is_only_the_name_of_a_byte_is_no_vocabulary_entry() -> None:
    merging = Tokenizer(models.BPE({"Ã": 0, "©": 1, "é": 2, "x": 3, "©x": 4}, [("©", "x")]))
    merging.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), BYTES])
    assert merging.encode("éx").ids == [0, 4]
    assert not Boundaries(merging).safe("é", "x")
    assert Boundaries(merging).safe("é", " x")


def test_an_added_token_that_swallows_its_neighbours_is_refused() -> None:
    greedy = Tokenizer(models.BPE())
    greedy.pre_tokenizer = pre_tokenizers.Whitespace()
    greedy.add_tokens([AddedToken("  ", lstrip=True)])
    assert "matches text beside it" in (Boundaries(greedy).reason or "")


@pytest.mark.parametrize(
    "source",
    [
        *[r"(?<=a)b", r"(?<!a)b", r"^a", r"a\b", r"\Ga", r"(a)\1", r"a(?=bc)", r"a(?!b$)", r"a(?=b(?!c))", r"(?i)a"],
        *[
            r"(?i:ß)",
            r"(?i:[^a])",
            r"(?i:\p{L})",
            r"\X",
            r"\R",
            r"\Aa",
            r"a{x",
            r"a{2}?",
            r"a{3,1}",
            r"(?<n>a)",
            r"a*",
            "(a",
            "a)",
        ],
        *[r"[a", r"[]a]", r"\p{Nonsense}", r"a\Kb", r"(?#x)a", r"(?~a)", r"\xC3\xA9", r"+a", r"a||b"],
    ],
)
def test_what_the_analysis_does_not_understand_is_refused(source: str) -> None:
    with pytest.raises(Refused):
        Pattern(source)


def test_pairs_cross_where_one_match_may_hold_both() -> None:
    pattern = Pattern(r"(?i:'st)|[a-c]{2,}d?|(?:x|\s+)(?=y)|\r\n?|(?>q+)|k?z")
    assert pattern.cross("'", "S")
    assert pattern.cross("'", "ﬆ")
    assert pattern.cross("c", "d")
    assert not pattern.cross("d", "d")
    assert not pattern.cross("x", "y")
    assert pattern.cross("\r", "\n")
    assert not pattern.cross("\n", "q")
    always = [c for c in "'sabcdx \r\nqkzy" if pattern.always(c)]
    assert always == ["\r", "q", "z"]
    assert pattern.never("y")
    assert not pattern.never("k")


def test_a_match_is_sure_where_nothing_can_take_its_character_away() -> None:
    assert Pattern("a?ab?").always("a")
    assert Pattern("(?>a)b*|c").always("a")
    for source in ("(?>a?)a", "a?+a", "a{,2}+a", "a(?=b)", "a$", "a{2}", "ab", "(?!a)a"):
        assert not Pattern(source).always("a"), source


def test_pairs_cross_over_what_may_be_absent() -> None:
    assert Pattern("x(?:a?b)").cross("x", "b")
    assert Pattern("(?:ba*)x").cross("b", "x")
    assert Pattern("x(?=a)(?:b|c)").cross("x", "c")
    assert Pattern("(?:ab?){1,2}").cross("b", "a")


def test_no_character_that_composes_is_taken_for_a_boundary() -> None:
    reaching, reached = set(), set()
    for c in map(chr, range(sys.maxunicode + 1)):
        parts = unicodedata.decomposition(c).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            reached.add(chr(int(parts[0], 16)))
            reaching.add(chr(int(parts[1], 16)))
        if unicodedata.combining(c):
            reaching.add(c)
    jamo = {chr(c) for c in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}
    assert not [c for c in reaching | jamo if inert(c)]
    assert not [c for c in reached if stable(c)]
    assert not [c for c in map(chr, range(0xAC00, 0xD7A4)) if stable(c)]


classes = st.sampled_from(["a", "b", r"\s", r"\p{L}", r"\p{N}", "[^a\\s]", "[ab1]", ".", "(?i:s)", r"\r\n", " ?", "'"])
marks = st.sampled_from(["", "", "", "?", "*", "+", "*?", "++", "?+", "{2}", "{1,2}", "{0,2}+", "{,2}", "{2,}?"])
looks = st.sampled_from(["", "", "", "$", r"(?=\s)", r"(?!\S)", "(?!a|b)", "(?=[^b]?)"])


def grouped(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = st.tuples(st.sampled_from(["(?:", "(", "(?>"]), inner, st.just(")"), marks).map("".join)
    return st.one_of(st.lists(inner, min_size=1, max_size=3).map("".join), group, st.tuples(inner, inner).map("|".join))


patterns = st.recursive(st.tuples(classes, marks, looks).map("".join), grouped, max_leaves=8)
behaviors = st.sampled_from(["isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"])


@examples(400)
@given(
    patterns, behaviors, behaviors, st.lists(st.text("ab1 s\r\n'Sé.", min_size=2, max_size=8), min_size=4, max_size=4)
)
def test_generated_patterns_never_split_otherwise_than_proved(
    source: str, behavior: str, then: str, several: list[str]
) -> None:
    try:
        Pattern(source)
    except Refused:
        return
    splits = [SPLIT(Regex(source), behavior), SPLIT(Regex(r"\s+(?!\S)|\p{L}{1,3}|[.']"), then)]
    both = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    both.pre_tokenizer = pre_tokenizers.Sequence(splits)
    proved = Boundaries(both)
    for text, other in pairwise(several):
        check(both, proved, text, other, 1, 1)
