"""Find the encoding of a text file: Unicode by its bytes, another by the letters that the text would have."""

import codecs
import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from math import log
from pathlib import Path

from palate.errors import InputError
from palate.ratings.survey import blocks_of

logger = logging.getLogger(__name__)

PLAIN = "cp1252"
"""The encoding of Western Europe, which is taken where no other fits better."""
_WRONG = re.compile(r"[\udc80-\udcff]")
"""Bytes that are not UTF-8, as Python's `surrogateescape` decodes them."""
_ODD = 2000
"""Lines from which a legacy encoding is found."""
_FEW = 4
"""Bytes that are not ASCII, of which fewer show no encoding: one may be damage, and two a letter of many."""
_MARKS = (
    ("utf-32", (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)),
    ("utf-16", (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)),
)
_MOST = 30_000
"""Bytes of different lines that are judged."""
_WEST = ("éèàêçâîôûùëïœ", "äöüß", "áíóéñúü", "ãéçáíóâêõúôà", "àèéùòì", "äåöé", "øåæéö", "íáðþöæóéúý", "ëéïöü")
_MIDDLE = ("łóążęśćńź", "íáéěýřšžčůúňťóď", "áíéýčšžúľťôňäďóĺŕ", "éáöóőüíúű", "ăîâșțşţ", "čšžćđ", "äöüß")
_CYRILLIC = ("оеаинтсрвлкмдпугяызбйьчхжцшюэщфёъ", "оаніирвтесклудмпзяьбгйчхцїжєшюґщф", "аоиенрсуткјвдмплгзбцшчжхљњћџђф")
_GREEK = ("ατοιενρσκηπςυμλίόάγέδήωχθύφβξζψώϊϋ",)
_LETTERS: dict[str, tuple[str, ...]] = {
    "cp1252": _WEST,
    "cp1250": _MIDDLE,
    "cp1251": _CYRILLIC,
    "iso8859_2": _MIDDLE,
    "koi8_r": _CYRILLIC,
    "cp1253": _GREEK,
    "cp1254": ("ıüşçğöİâî",),
    "cp1255": ("יוהלרבתמאשנעםדקחפסכגטצןזךףץ",),
    "cp1256": ("اليمونرتبةعدسفهكقأحجشطصىخإضذثءغئظزآؤ", "ایردنهومتبسلکشزفگعخقجآپحطصچغضذثظژئ"),
    "cp1257": ("ėšųąžįčūę", "āīēšūņļģžķč", "õäüöšž"),
    "cp874": ("านร่อก้เงัมีิยลวุดทสตูะปบคหื์แจพไชข็ใโึำฟณธถภศษซฐญผฝฉๆฎฤฮฬ",),
    "koi8_u": _CYRILLIC,
    "cp866": _CYRILLIC,
    "iso8859_7": _GREEK,
    "mac_roman": _WEST,
    "cp850": _WEST,
}
"""The letters beyond ASCII of the languages that an encoding is for, frequent ones first."""
_OLD = ("koi8_u", "cp866", "iso8859_7", "mac_roman", "cp850", "euc_jp")
"""Encodings that few files have."""
_PRIOR = {PLAIN: 2.0, **dict.fromkeys(_OLD, -5.0)}
"""The logarithm of how much more often files have an encoding."""
_WIDE = {
    "cp932": ((0x82, 0x83, 80), (0x88, 0x97, 2_000)),
    "euc_jp": ((0xA4, 0xA5, 80), (0xB0, 0xCF, 2_000)),
    "gb18030": ((0xB0, 0xD7, 2_000),),
    "big5": ((0xA4, 0xC6, 2_000),),
    "cp949": ((0xB0, 0xC8, 800),),
}
"""First bytes of the usual characters of East Asia, and about how many are in use."""
_TYPED = "\xa0–—‘’“”„…«»°®™©·•´¡¿€£№、。「」『』・ー！？（）：～　，《》"
_TYPED_P, _STRANGE_P, _RARE_P = 1e-2, 1e-6, 1e-4
"""Probabilities of a mark that people type, of one that they do not, and of a letter of no language of the encoding."""
_CAPITAL_P, _ACCENTS_P, _ODD_P = 0.8, 0.1, 1e-3
"""Of a capital, of two letters with accents in a row, and of a capital or another script within a word."""


def encoding_of(path: Path, place: str, wanted: str | None) -> str:
    """The encoding of a text file; empty for UTF-8.

    Text with a mark, or with a zero in every second byte, is UTF-16 or UTF-32. Other text that is not UTF-8 is in a
    legacy encoding, if no part of it is UTF-8; the reader names the line of a few damaged bytes in UTF-8. A guess other
    than `PLAIN` is logged.
    """
    if wanted is not None:
        try:
            "".encode(wanted)
        except UnicodeError:
            pass
        except (LookupError, ValueError):
            expected = "expected one such as cp1252"
            raise InputError(f"{wanted!r} is no encoding of text, {expected}", "ratings.encoding") from None
        return "" if codecs.lookup(wanted).name in ("utf-8", "utf-8-sig", "ascii") else wanted
    begin = b""
    odd: list[bytes] = []
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    sound = strange = 0
    for block in blocks_of(path):
        begin = begin or bytes(block)
        if block.isascii():
            continue
        text = decode(block)
        wrong = len(_WRONG.findall(text))
        strange += wrong
        sound += len(text) - len(text.encode("ascii", "ignore")) - wrong
        if wrong and len(odd) < _ODD:
            odd += [line.encode("utf-8", "surrogateescape") for line in text.split("\n") if _WRONG.search(line)]
    marked = next((name for name, marks in _MARKS if begin.startswith(marks)), None)
    if marked is not None:
        return marked
    zeros = [begin[at : 1 << 12 : 2].count(0) * 2 for at in (0, 1)]
    if max(zeros) > 0.6 * len(begin[: 1 << 12]) and min(zeros) < 0.1 * len(begin):
        return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    if strange <= sound or b"\0" in begin:
        return ""
    found = _guessed(odd) if strange >= _FEW else PLAIN
    if found != PLAIN:
        shown = odd[0].decode(found, errors="replace").strip()[:60]
        logger.info("%s: read as %s, such as %r; ratings.encoding names another", place, found, shown)
    return found


def _guessed(lines: Sequence[bytes]) -> str:
    """The most likely encoding of lines that are not Unicode; `PLAIN` if no other fits better.

    The measure is the probability of the characters beyond ASCII: each is a letter of a language, by its rank, or a
    mark. A capital behind a small letter, and a word with letters of two scripts, are hardly ever written.
    """
    text, size = [], 0
    for line in dict.fromkeys(lines):
        text.append(line[: _MOST - size])
        size += len(text[-1])
        if size >= _MOST:
            break
    sample = b"\n".join(text)
    merits = {name: _merit(sample, name) for name in (*_LETTERS, *_WIDE)}
    return max(merits, key=lambda name: merits[name])


def _merit(sample: bytes, encoding: str) -> float:
    """The logarithm of the probability of a text in the most likely language of an encoding."""
    text, prior = sample.decode(encoding, errors="replace"), _PRIOR.get(encoding, 0.0)
    if encoding in _WIDE:
        return prior + sum(log(_wide(c, encoding)) for c in text if not c.isascii())
    alphabets = [_ranked(letters) for letters in _LETTERS[encoding]]
    letters = {letter for alphabet in alphabets for letter in alphabet}
    alphabets.append({c: sum(a.get(c, _RARE_P) for a in alphabets) / len(alphabets) for c in letters})
    fixed, free = prior, []
    for before, c in zip("\n" + text, text, strict=False):
        is_small = before.islower()
        if c.isascii():
            fixed += log(_ODD_P) if c.isupper() and is_small and not before.isascii() else 0
        elif unicodedata.category(c)[0] not in "LM":
            typed = c in _TYPED and not before.isalpha()
            fixed += log(_TYPED_P if typed or c in "’" else _STRANGE_P)
        else:
            is_latin = "LATIN" in unicodedata.name(c, "")
            free.append(c.lower() if c != "İ" else c)
            fixed += (log(_ODD_P) if is_small else log(_CAPITAL_P)) if c.isupper() else 0
            if before.isalpha() and before.isascii() != is_latin:  # two accents in a row, or letters of two scripts
                fixed += log(_ACCENTS_P if is_latin else _ODD_P)
    return fixed + max(sum(log(alphabet.get(c, _RARE_P)) for c in free) for alphabet in alphabets)


def _ranked(letters: Iterable[str]) -> dict[str, float]:
    """A probability of each letter, by its rank."""
    weights = {letter: 0.88**rank for rank, letter in enumerate(letters)}
    return {letter: weight / sum(weights.values()) for letter, weight in weights.items()}


def _wide(c: str, encoding: str) -> float:
    """The probability of a character of East Asia."""
    if c in _TYPED:
        return _TYPED_P
    try:
        code = c.encode(encoding)
    except UnicodeEncodeError:
        return _STRANGE_P**2
    return next(
        (1 / count for low, high, count in _WIDE[encoding] if low <= code[0] <= high and len(code) == 2), _STRANGE_P
    )
