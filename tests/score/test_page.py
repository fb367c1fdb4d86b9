import re
from pathlib import Path
from typing import Any

import numpy as np
from tests.tiny import tiny_folder

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scoring.md"


def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base", max_position_embeddings=4096)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S))
    found: dict[str, Any] = {}
    # in bfloat16, which a processor that has it takes by itself, the last assertion would hold to 0.02 alone
    exec(code.replace('"smollm2-135m"', f'{str(base)!r}, dtype="float32"'), found)
    scores, scorer = found["scores"], found["scorer"]
    assert [column.shape for column in scores] == [(3,)] * 3
    np.testing.assert_allclose(
        scorer.rank_ids(found["prompts"]).logit, scorer.score_ids(found["prompts"]).logit, atol=1e-4
    )
