"""Each reader with its inputs: an input is a seed, which makes a small table, damages it, and says what is right."""

from functools import partial
from importlib.util import find_spec

from tests.fuzz.alpaca import check_alpaca, check_mind, make_alpaca, make_mind
from tests.fuzz.bodies import check_body, make_body
from tests.fuzz.case import Reader
from tests.fuzz.configs import check_config, make_config
from tests.fuzz.databases import check_sheet, check_sqlite, make_sheet, make_sqlite
from tests.fuzz.items import check_items, check_splits, check_users, make_items, make_splits, make_users
from tests.fuzz.objects import check_json, make_json
from tests.fuzz.packed import check_packed, make_packed
from tests.fuzz.records import check_record, make_record
from tests.fuzz.text import check_text, make_text
from tests.fuzz.typed import check_typed, make_arrow, make_parquet

READERS: dict[str, Reader] = {
    "CSV": Reader(partial(make_text, (",", ",", ",", ";", "|"), ("ratings.csv",)), check_text),
    "TSV": Reader(partial(make_text, ("\t",), ("ratings.tsv", "log.txt")), check_text),
    "MovieLens": Reader(partial(make_text, ("::",), ("ratings.dat",)), check_text),
    "MovieLens 100k": Reader(partial(make_text, ("\t",), ("u.data",)), check_text),
    "RecBole": Reader(partial(make_text, ("\t",), ("log.inter",)), check_text),
    "JSON": Reader(make_json, check_json),
    "archives": Reader(make_packed, check_packed),
    "Parquet": Reader(make_parquet, check_typed),
    "Arrow": Reader(make_arrow, check_typed),
    "SQLite": Reader(make_sqlite, check_sqlite),
    **({"spreadsheets": Reader(make_sheet, check_sheet)} if find_spec("fastexcel") else {}),
    "items": Reader(make_items, check_items),
    "users": Reader(make_users, check_users),
    "MIND": Reader(make_mind, check_mind),
    "Alpaca": Reader(make_alpaca, check_alpaca),
    "splits": Reader(make_splits, check_splits),
    "YAML config": Reader(make_config, check_config),
    "HTTP bodies": Reader(make_body, check_body),
    "records": Reader(make_record, check_record),
}
