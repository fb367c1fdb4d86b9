"""Store: files that are whole or absent, one answer to "is this still valid?", and where models and tokenizers lie.

What Palate keeps is recorded with its key, the dict of what it was made from (`keys`); it is valid as long as that is
the key of now and its files are as recorded. `keys.reason` words what changed, `keys.damage_in` what is damaged.

| what | key is recorded in | compared by | when it differs | lock |
|---|---|---|---|---|
| prepared folder | `manifest.json`: inputs, options, version | `commands.prepare` | refused, or prepared again | – |
| portable token folder | `manifest.json`: options, tokenizer | `commands.prepare`, `tokens.portable` | refused | – |
| cache entry | `entry.json`: parts | `cache.Cache.entry` | made beside it | the entry's |
| finished stage of a run | `stages.json`: made_from | `commands.ledger` | done again | – |
| parts of long work | `FILE.parts/key.json` | `resume.LongWork` | removed | that of `FILE` |
| scores | metadata of the file | `score.files` | made again | as its parts |
| recommendations | hash of the key in the file | `recommend.batch` | made again | as its parts |
| rankings | hash of the key in the file | `commands.rankings` | made again | as its parts |
| checkpoints | `fingerprint.json` | `train.checkpoints` | set aside | – |
| calibration | its `source` and `fitted_on` | `measure.calibration`, `commands.scores` | refused, or fitted again | – |

A rule for validity belongs in the function that makes the key: `commands.prepare` (with `samples.export`),
`tokens.portable`, `tokens.build_tables` and `tokens.dataset`, `commands.train.model_key` for scores,
`commands.recommend`, `commands.rankings`, `train.finetune`. `commands.run` makes the keys of its stages, and compares
them first.
"""
