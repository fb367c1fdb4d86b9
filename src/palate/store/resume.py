"""Parts of a long piece of work: each is written whole, and believed by those who work under the same key."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palate.store.artifacts import write_json
from palate.store.keys import reason, recorded

log = logging.getLogger(__name__)

KEY = "key.json"


def take_up(folder: Path, key: Mapping[str, Any], what: str) -> bool:
    """Open the folder of parts of the work `what`; whether an interrupted run with the same key has left any there.

    Parts under any other key are removed, and the log says what changed.
    """
    before = recorded(folder / KEY)
    if before:
        why = reason(before.get("key", {}), key)
        if not why:
            return True
        log.info("%s starts over: %s since %s was written", what, why, folder)
    shutil.rmtree(folder, ignore_errors=True)
    write_json(folder / KEY, {"key": dict(key)})
    return False
