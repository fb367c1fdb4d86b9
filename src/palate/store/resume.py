"""Parts of a long piece of work: each is written whole, and believed by those who work under the same key."""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palate.store.artifacts import sha256_of, write_json

log = logging.getLogger(__name__)

KEY = "key.json"


def take_up(folder: Path, key: Mapping[str, Any], what: str) -> bool:
    """Open the folder of parts of the work `what`; whether an interrupted run with the same key has left any there.

    Parts under any other key are removed, and the log says what changed.
    """
    digest = sha256_of(dict(key))
    try:
        before = json.loads((folder / KEY).read_text())
    except (OSError, ValueError):
        before = None
    if before is not None and before.get("sha256") == digest:
        return True
    if before is not None:
        changed = sorted(k for k in key if before.get("key", {}).get(k) != json.loads(json.dumps(key[k])))
        log.info("%s starts over: %s changed since %s was written", what, ", ".join(changed), folder)
    shutil.rmtree(folder, ignore_errors=True)
    write_json(folder / KEY, {"sha256": digest, "key": dict(key)})
    return False
