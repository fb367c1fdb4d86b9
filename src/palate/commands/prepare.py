"""Prepare: from ratings to the prepared folder, and back from the folder for the stages after it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from palate import __version__, console
from palate.commands.ledger import changes, flat
from palate.commands.signals import read_beside, signalled, signals_of
from palate.config import Config, decisive_options, write_config
from palate.console import log
from palate.errors import InputError
from palate.models.load import check_at_hand, tokenizer_of
from palate.progress import working
from palate.prompt.chat import Chat
from palate.ratings.database import place_of
from palate.store import keys
from palate.store.artifacts import MANIFEST, sha256_of
from palate.store.places import check_files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from palate.baselines.kept import Kept
    from palate.baselines.statistics import BaselineData
    from palate.ratings.load import Ratings
    from palate.samples import Prepared
    from palate.samples.build import Samples
    from palate.text.vectors import Vectors
    from palate.tokens.dataset import Options, TokenDataset
    from palate.tokens.portable import Portable

MANY_LOST = 0.2
"""Share of the users without samples from which `palate prepare` warns."""


def ratings_of(config: Config) -> "Ratings":
    """The ratings that the config names."""
    from palate.ratings.likes import Likes
    from palate.ratings.load import load_ratings, with_sample, with_store, with_users
    from palate.ratings.splits import load_given

    wanted = config.ratings
    if wanted.source is None:
        raise InputError("no ratings, expected --ratings PATH|NAME or ratings.source in a config", "palate")
    columns = {str(role): name for role, name in wanted.columns.items()}
    rules: dict[str, Any] = {"bad_rows": wanted.bad_rows, "untitled": wanted.untitled}
    rules |= {"encoding": wanted.encoding, "not_rated": wanted.not_rated}
    if wanted.likes is not None:
        if config.prepare.split == "given" or wanted.also is not None:  # of --data, or of a refresh
            what = "a service's store" if wanted.also is not None else "tables with splits"
            raise InputError(f"{wanted.likes!r} samples dislikes, {what} may hold some; expected null", "ratings.likes")
        rules["likes"] = Likes(wanted.likes, wanted.negatives_per_like)
    with working(f"reading {place_of(wanted.source)}"):
        if config.prepare.split == "given":
            ratings = load_given(wanted.source, items=wanted.items, columns=columns, scale=wanted.scale, **rules)
        else:
            rules |= {"header": wanted.header, "order": wanted.order, "memory": config.prepare.memory}
            ratings = load_ratings(wanted.source, items=wanted.items, columns=columns, scale=wanted.scale, **rules)
        if wanted.sample_users is not None:
            ratings = with_sample(ratings, wanted.sample_users, config.seed)
        if wanted.also is not None:
            ratings = with_store(ratings, wanted.also)
        if wanted.users is not None:
            ratings = with_users(ratings, wanted.users, columns, wanted.encoding)
    if ratings.dropped:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in ratings.dropped.items())
        _log_once(f"{ratings.name}: left out {sum(ratings.dropped.values()):,} rows: {counts}")
    if ratings.shape not in ("", "CSV", "TSV", "Parquet"):
        _log_once(f"{ratings.name} is read as {ratings.shape}")
    if wanted.order == "file":
        _log_once(f"{ratings.name}: no times: the rows of a user count as in order, and what a time says is left out")
    if ratings.dated:
        _log_once(f"{ratings.name}: timestamp: {ratings.times}")
    if ratings.rated:
        _log_once(f"{ratings.name}: rating: {ratings.rated}")
    return replace(ratings, options=_reading(config))


@cache
def _log_once(line: str) -> None:
    """Log a line the first time; a command may read its ratings several times."""
    log.info(line)


def chat_of(config: Config) -> Chat:
    """The tokenizer, chat template and answers that the config comes to, checked.

    Raises `InputError` for a tokenizer that is not to be had, one without a chat template, and answers that are not
    one token each.
    """
    chat = Chat(tokenizer_of(config), config.prompt.yes, config.prompt.no)
    _ = chat.decision
    return chat


def check_model(config: Config) -> Chat:
    """Look at the model and its chat template now rather than after an hour; as `chat_of`, for the model too."""
    check_at_hand(config.model)
    return chat_of(config)


def prepare(config: Config) -> None:
    """Write the prepared data, and print what it holds."""
    console.start_logging()
    text = f"prepared {counts(prepare_data(config))} in {config.data_path}"
    console.out.print(text, soft_wrap=True)


def counts(manifest: Mapping[str, Any]) -> str:
    """The number of samples of each split."""
    samples = manifest["stats"]["samples"]
    return f"{samples['train']:,} train, {samples['val']:,} validation and {samples['test']:,} test samples"


def prepare_data(config: Config, *, whole: bool = False) -> dict[str, Any]:
    """Write Alpaca files, raw samples and their manifest to `config.data_path`; returns the manifest.

    `whole` refuses a log on the disk, for commands that go on to measure models.

    A run's folder without a log gets the config, so that other commands take the folder for it.
    """
    from palate.samples import prepare as export
    from palate.samples.build import check_in_memory
    from palate.samples.export import FILES
    from palate.samples.prepared import STAGE
    from palate.samples.signals import Signals

    check_files(config.data_path, "palate prepare", STAGE, FILES)  # before a long log is read
    ratings = ratings_of(config)
    if whole:
        check_in_memory(ratings, "measures models")
    _check_domain(config, ratings)
    items = ratings.frame["item_id"].n_unique()
    log.info("%s: %s ratings of %s items", ratings.name, f"{len(ratings.frame):,}", f"{items:,}")
    if ratings.times:
        _log_once(f"{ratings.name}: timestamp: {ratings.times}")
    signals = None
    if config.prompt.signals:
        signals = Signals(lambda samples: signals_of(config, samples), read_beside(config))
    spread = None
    if config.engine.name == "ray":
        from palate.cluster.samples import rendered

        spread = partial(rendered, config.engine)
    manifest = export(ratings, config.prepare, config.prompt, config.seed, config.data_path, signals, spread)
    if config.data_dir is None and not (config.run_path / "run.log").is_file():
        write_config(config, config.run_path / "config.yaml")
    stats = manifest["stats"]
    users, lost = stats["users"], stats["users"] - stats["users_with_samples"]
    if lost > MANY_LOST * users and config.prepare.split != "given":
        need, source = config.prepare.history_len, config.ratings.source
        warning = "%s of %s users have too few ratings (<%d): `palate inspect %s` shows what a shorter history keeps"
        log.warning(warning, f"{lost:,}", f"{users:,}", need + 1, source)
    return manifest


def _check_domain(config: Config, ratings: "Ratings") -> None:
    """Warn if the default prompt, which speaks of movies, would ask about items that no name calls films."""
    from palate.ratings.domain import may_be_films

    words = {"system", "instruction", "history_header", "candidate_header", "question"}
    if words.isdisjoint(config.prompt.model_fields_set) and not may_be_films(ratings):
        source = config.ratings.source
        log.warning("the prompt speaks of movies, %s does not: `palate init %s` writes a config for it", source, source)


def prepared(config: Config) -> "Prepared":
    """The prepared data that the config means; a run's own data is prepared first if it is not there.

    Raises `InputError` if there is none, or if it was prepared with other options.
    """
    from palate.samples import load_prepared

    check_prepared(config)
    return load_prepared(config.data_path, config.prepare.memory)


def check_prepared(config: Config) -> None:
    """Look at prepared data as `prepared` does, by its manifest alone: also over a large log this takes no time."""
    from palate.samples.prepared import read_manifest

    folder = config.data_path
    if not (folder / MANIFEST).is_file() and config.data_dir is None and config.ratings.source:
        log.info("prepared %s in %s", counts(prepare_data(config)), folder)
    manifest = read_manifest(folder)
    options = prepare_options(config)
    if config.data_dir is not None:  # a folder of another place says itself how its tables were read
        options["ratings"] = manifest["options"].get("ratings", {})
    changed = changed_options(manifest, options)
    if changed:
        raise InputError(
            f"was prepared with {changed}; run `palate prepare` with this config, or name another data_dir",
            folder / MANIFEST,
        )


def outdated(config: Config) -> bool:
    """Whether the run's own data was prepared with other options, so that `palate run` would prepare it again.

    Commands that write nothing then look at the ratings themselves; the log says so.
    """
    from palate.samples.prepared import read_manifest

    folder = config.data_path
    if config.data_dir is not None or config.ratings.source is None or not (folder / MANIFEST).is_file():
        return False
    changed = changed_options(read_manifest(folder), prepare_options(config))
    if changed:
        log.info("%s was prepared with %s: reading the ratings instead", folder, changed)
    return bool(changed)


def tokens_of(config: Config, data: "Prepared", chat: Chat, splits: Sequence[str]) -> "dict[str, TokenDataset]":
    """The token datasets of prepared data, under the config's prompt, cutoff and truncation."""
    from palate.tokens.dataset import token_datasets

    name = str(data.manifest["stats"]["name"])
    return token_datasets(
        data.samples, config.prompt, chat, token_options(config), data=_prompt_inputs(data), name=name, splits=splits
    )


def _prompt_inputs(data: "Prepared") -> dict[str, Any]:
    """What decides the prompts of prepared data beside the prompt's options: the samples, any signals and users."""
    from palate.samples.signals import FILE, USERS

    outputs = data.manifest["outputs"]
    files = {"signals": FILE, "users": USERS}
    return made_from_of(data) | {name: outputs[file] for name, file in files.items() if file in outputs}


def made_from_of(data: "Prepared | Portable") -> dict[str, Any]:
    """What decides the samples of prepared data: the hashes of its tables, and the options that read them."""
    from palate.samples.negatives import FILE as NEGATIVES
    from palate.tokens.portable import Portable

    manifest = data.data_manifest if isinstance(data, Portable) else data.manifest
    options = manifest["options"]["prepare"]
    outputs = manifest["outputs"]
    made_from = {name: outputs[f"{name}.parquet"] for name in ("ratings", "items")}
    made_from |= {"negatives": outputs[NEGATIVES]} if NEGATIVES in outputs else {}
    made_from |= {name: options[name] for name in ("history_len", "rating_threshold")}
    return made_from | ({"split": "given"} if options.get("split") == "given" else {})


def kept_baselines(config: Config, data: "Prepared") -> "Kept":
    """The baselines that were fitted on prepared data, in the run's folder."""
    from palate.baselines.kept import Kept

    return Kept(config.run_path / "baselines", made_from_of(data) | {"seed": config.seed})


def baseline_data(config: Config, data: "Prepared", *, text: bool) -> "BaselineData":
    """The data that baselines learn from; with `text` they have vectors of it if the config names an encoder."""
    from palate.baselines.statistics import BaselineData

    return BaselineData.of(data.samples, config.seed, vectors=text_vectors(config, data) if text else None)


def text_vectors(config: Config, data: "Prepared") -> "Vectors | None":
    """The vectors of the items' text, kept in the run's folder; None if `text.encoder` is null."""
    from palate.text.vectors import vectors_of

    return vectors_of(data.samples.items, config.text, config.model.base, config.run_path)


def samples_of(config: Config) -> "tuple[Samples, dict[str, Any], str]":
    """The samples of the config's ratings with nothing written, what decides them, and the ratings' name.

    What decides them: the input files' SHA-256, the options that say how they are read, and those that choose
    and split the samples.
    """
    from palate.samples.build import checked_samples

    ratings = ratings_of(config)
    is_drawn = config.prepare.split == "cold-items" or config.ratings.likes or config.ratings.sample_users
    made_from = {
        "ratings": dict(ratings.inputs),
        "columns": config.ratings.model_dump(mode="json")["columns"],
        "scale": list(ratings.scale),
        **config.prepare.model_dump(mode="json", exclude={"max_eval"}),
        **{name: rule for name, rule in _reading(config).items() if name != "columns"},
        **({"seed": config.seed} if is_drawn else {}),
    }
    return checked_samples(ratings, config.prepare, config.seed), made_from, ratings.name


def _reading(config: Config) -> dict[str, Any]:
    """How the config's tables are read: columns by name, rules that do not refuse, and likes; empty if as usual."""
    elsewhere = {"source", "also", "items", "users", "scale"}
    reading = config.ratings.model_dump(mode="json", exclude=elsewhere)
    return {name: value for name, value in reading.items() if value not in ({}, [], None)}


def tokens_of_ratings(config: Config, chat: Chat, splits: Sequence[str]) -> "dict[str, TokenDataset]":
    """As `tokens_of`, of samples straight from the ratings."""
    from palate.tokens.dataset import token_datasets

    samples, made_from, name = samples_of(config)
    samples, more = signalled(config, samples)
    made_from |= more
    return token_datasets(samples, config.prompt, chat, token_options(config), data=made_from, name=name, splits=splits)


def evaluation_part(config: Config, val: "TokenDataset") -> "TokenDataset":
    """The validation samples that `eval.json` holds, drawn with the seed; those that truncation drops are left out."""
    import numpy as np

    from palate.samples.export import draw

    every = np.arange(val.tables.position("val").size)
    return val.select(np.flatnonzero(np.isin(val.numbers, draw(every, config.prepare.max_eval, config.seed))))


def scored_tokens(
    config: Config, data: "Prepared", chat: Chat, splits: Sequence[str] = ("test",)
) -> "dict[str, TokenDataset]":
    """The samples of some splits as they are scored: all of them, also those that training would leave out."""
    return tokens_of(_keeping_all(config), data, chat, splits)


def scored_tokens_of(config: Config, samples: "Samples", chat: Chat) -> "TokenDataset":
    """The test samples of any samples as `scored_tokens` has them."""
    from palate.tokens.dataset import token_datasets

    options = token_options(_keeping_all(config))
    return token_datasets(samples, config.prompt, chat, options, name="newest", splits=("test",))["test"]


def ablated_tokens(
    config: Config, data: "Prepared", chat: Chat, split: str, rows: "NDArray[np.int64]", ablation: str
) -> "TokenDataset":
    """Some rows of a split, asked with less in the prompt; sample i is row `rows[i]`."""
    from palate.measure.ablations import ablate
    from palate.tokens.dataset import token_datasets

    index = data.samples.of(split)[rows]
    samples, prompt = ablate(data.samples, config.prompt, index, ablation, config.seed)
    made_from = _prompt_inputs(data) | {"of": split, "rows": sha256_of(rows.tolist()), "ablation": ablation}
    made_from |= {"history_len": samples.history_len, "seed": config.seed}
    options = token_options(_keeping_all(config))
    name = f"{data.manifest['stats']['name']}, {ablation}"
    return token_datasets(samples, prompt, chat, options, data=made_from, name=name, splits=("test",))["test"]


def _keeping_all(config: Config) -> Config:
    """The config under which truncation drops no sample."""
    if config.tokens.truncation != "drop":
        return config
    return config.model_copy(update={"tokens": config.tokens.model_copy(update={"truncation": "left"})})


def sample_ids(data: "Prepared", split: str = "test") -> "dict[str, NDArray[np.int64]]":
    """`user_id` and `item_id` of every sample of a split; words as NumPy's own text, which needs no pickle."""
    from palate.samples.queries import candidate_rows

    samples, index = data.samples, data.samples.of(split)
    users, items = samples.timeline["user_id"], samples.items["item_id"]
    ids = {
        "user_id": users.gather(samples.position[index]).to_numpy(),
        "item_id": items.gather(candidate_rows(samples, index)).to_numpy(),
    }
    return {name: found.astype(str) if found.dtype == object else found for name, found in ids.items()}


def portable(config: Config, chat: Chat) -> "Portable | None":
    """The portable token folder that `data_dir` names; None if it names another.

    Raises `InputError` if it is damaged, or was made for another tokenizer or other options.
    """
    from palate.tokens.portable import is_portable, open_portable

    folder = config.data_path
    if not is_portable(folder):
        return None
    found = open_portable(folder)
    changed = changed_options({"options": _known(found.manifest["options"])}, portable_options(config))
    if changed:
        raise InputError(f"was made with {changed}; write another with `palate tokenize --portable`", folder)
    found.check_tokenizer(chat)
    return found


def portable_options(config: Config) -> dict[str, Any]:
    """What a portable token folder must agree in with a config: what decides its samples and their sequences."""
    options = {name: value for name, value in prepare_options(config).items() if name != "ratings"}
    return options | {"tokens": asdict(token_options(config))}


def _known(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in ("format", "tokenizer")}


def token_options(config: Config) -> "Options":
    """What the config says of sequences."""
    from palate.tokens.dataset import Options

    return Options(config.tokens.cutoff_len, config.tokens.truncation, config.train.train_on)


def prepare_options(config: Config) -> dict[str, Any]:
    """The options that decide the prepared files, beside the ratings, as their manifest holds them."""
    reading = _reading(config)
    options = decisive_options(config.prepare, config.prompt, config.seed)
    signals = read_beside(config)
    return ({"ratings": reading} if reading else {}) | options | ({"signals": signals} if signals else {})


def changed_options(manifest: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Where the manifest's options differ from the config's, in words; empty if nowhere."""
    then, now = flat(manifest["options"]), flat(options)
    names = sorted(keys.changed(then, now))
    return ", ".join(f"{name} = {then.get(name)!r} (the config says {now.get(name)!r})" for name in names)


def why_again(config: Config, manifest: Mapping[str, Any]) -> str:
    """Why `palate run` prepares its data again: other options, ratings or version; empty if it need not."""
    if found := changes(manifest["options"], prepare_options(config)):
        return found
    then = {"palate": manifest["palate"], "the ratings": manifest["inputs"]}
    return keys.reason(then, {"palate": __version__, "the ratings": ratings_of(config).inputs})
