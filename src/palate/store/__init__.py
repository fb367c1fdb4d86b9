"""Store: atomic files and folders, content keys, the cache, and the places of models and tokenizers.

Palate records each artifact with its key: a dict of the inputs and options that it depends on (`keys`). The artifact is
valid if the current key is equal and its files are as recorded. `keys.reason` names the entries that changed,
`keys.damage_in` the damaged file. A process that replaces a folder holds the folder's lock meanwhile, and the next that
writes a file or a folder removes what killed processes of its machine left beside it.

| artifact | its key is in | compared by | if the key differs | lock |
|---|---|---|---|---|
| prepared folder | `manifest.json`: inputs, options, version | `commands.prepare` | refused, or prepared again | – |
| portable token folder | `manifest.json`: options, tokenizer | `commands.prepare`, `tokens.portable` | refused | – |
| cache entry | `entry.json`: parts | `cache.Cache.entry` | another entry is built | the entry's |
| finished stage of a run | `stages.json`: made_from | `commands.ledger` | the stage runs again | – |
| parts of long work | `FILE.parts/key.json` | `resume.LongWork` | removed | that of `FILE` |
| scores | metadata of the file | `score.files` | computed again | as its parts |
| recommendations | hash of the key in the file | `recommend.batch` | computed again | as its parts |
| fitted baselines | hash of the key in the file | `baselines.kept` | fitted again | – |
| vectors of items' texts | `made from` in the file | `text.vectors` | computed again | – |
| rankings | hash of the key in the file | `commands.rankings` | computed again | as its parts |
| checkpoints | `fingerprint.json` | `train.checkpoints` | moved aside | – |
| calibration | its `source` and `fitted_on` | `measure.calibration`, `commands.scores` | refused, or fitted again | – |
| factors of an offset | the same | `measure.offset`, `commands.scores` | refused, or fitted again | – |
| release of a run | `refresh.json`, `config.yaml` | `commands.refresh` | another is built | that of `releases` |

A rule for validity belongs in the function that makes the key: `commands.prepare` (with `samples.export`),
`tokens.portable`, `tokens.build_tables` and `tokens.dataset`, `commands.score.model_key` for scores,
`commands.recommend`, `commands.rankings`, `train.finetune`. `commands.run` makes the keys of its stages, and compares
them first.
"""
