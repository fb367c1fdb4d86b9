"""`EXAMPLES`: bodies of requests and answers for the OpenAPI description, as the demo's run sends and gets them."""

from http import HTTPStatus
from typing import Any

from palate.serve.schemas import LOADING

_TOY_STORY = {"title": "Toy Story (1995)", "rating": 5}
_BY = {"model": "strongest-text", "label": "LightGBM (strongest) + text", "calibrated": True}
_FOUND = {"candidates": 1507, "retriever": "classical", "left_out": 175}
_FARGO = {"item_id": 100, "title": "Fargo (1996)"}
_SCORED = {**_FARGO, "p": 0.833, "logit": 1.607, "mass": None, "beside": {}}
_BEST = {
    **{"item_id": 114, "title": "Wallace & Gromit: The Best of Aardman Animation (1996)"},
    **{"p": 0.939, "logit": 2.742, "mass": None, "beside": {}},
}
_ITEM = {**_FARGO, "columns": {"year": "1996", "genres": "Crime, Drama, Thriller"}}
_MODELS = [
    {"key": "fine-tuned-alone", "label": "fine-tuned model alone", "kind": "language model", "calibrated": False,
     "auc": None, "rows": None},
    {"key": "strongest-text", "label": _BY["label"], "kind": "baseline", "calibrated": True, "auc": 0.849,
     "rows": 8272},
]  # fmt: skip
_MODEL = {
    **{"palate": "0.1.0", "run": "demo", "default": "strongest-text", "models": _MODELS},
    **{"base": "SmolLM2-135M-Instruct.Q4_1", "adapter": "adapter"},
    "prompt": {"system": "Films the user likes", "instruction": "Liked:", "yes": "Yes", "no": "No"},
    "calibration": {"baseline": "strongest-text", "alpha": 0.0, "intercept": 0.0},
    "data": {"name": "ml-100k", "users": 943, "items": 1682, "ratings": 100000},
    **{"scale": (1.0, 5.0), "threshold": 4.0},
    "filters": {"item_id": "text", "title": "text", "year": "number", "genres": "list"},
    "filter_values": {"genres": ["Action", "Adventure", "Animation"]},
    "why": ["Use LightGBM (strongest) + text: AUC 0.849 on 8,272 rows."],
    "verdict": ["The sum of strongest-text and the fine-tuned model sorts the rows exactly as LightGBM (strongest) + "
                "text does: AUC 0.810 against 0.810."],
    "metrics": {"strongest-text": {"n": 300, "auc": 0.81, "log_loss": 0.534, "ece": 0.082}},
}  # fmt: skip
_TOKENS = [
    {"id": 1, "text": "<|im_start|>", "part": "template"},
    {"id": 12864, "text": "argo", "part": "text"},
    {"id": 10539, "text": "Yes", "part": "answer"},
    {"id": 5230, "text": "No", "part": "answer"},
]

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "ScoreRequest": [
        {
            "history": [_TOY_STORY, {"item_id": 50, "rating": 4}],
            "candidates": [{"title": "Fargo (1996)"}, {"item_id": 172}],
        }
    ],
    "ScoreAnswer": [{**_BY, "ratings": 1, "scores": [_SCORED]}],
    "RecommendRequest": [
        {"user_id": 42, "top_k": 5},
        {"history": [{"item_id": 50, "rating": 4.5}], "top_k": 3, "stream": True},
        {"history": [_TOY_STORY], "top_k": 10, "filters": {"genres": "Comedy", "year": {"min": 1990}}},
    ],
    "RecommendAnswer": [{**_BY, "ratings": 175, "recommendations": [_BEST], **_FOUND}],
    "Started": [{"model": "strongest-text", **_FOUND}],
    "ScoredPart": [{"items": [_BEST], "done": 1507, "of": 1507}],
    "ExplainRequest": [{"history": [_TOY_STORY], "candidate": {"title": "Fargo (1996)"}}],
    "ExplainAnswer": [
        {
            **{**_BY, "ratings": 1, "score": _SCORED},
            "effects": [{"item_id": 1, **_TOY_STORY, "effect": -0.219, "p_without": 0.861}],
        }
    ],
    "PromptRequest": [{"user_id": 42, "candidate": {"item_id": 50}}],
    "PromptAnswer": [{"tokens": _TOKENS, "yes": "Yes", "no": "No"}],
    "ItemAnswer": [_ITEM],
    "ItemsAnswer": [{"items": [_ITEM]}],
    "UserAnswer": [
        {
            "user_id": 42,
            "ratings": [
                {"item_id": 294, "title": "Liar Liar (1997)", "rating": 4.0, "timestamp": 881105296, "stored": False},
                {"item_id": 50, "title": "Star Wars (1977)", "rating": 4.5, "timestamp": 1796085408, "stored": True},
            ],
        }
    ],
    "ModelAnswer": [_MODEL],
    "RatingsRequest": [{"key": "6f1e", "ratings": [{"user_id": 42, "item_id": 50, "rating": 4.5}]}],
    "EventsRequest": [{"events": [{"event": "shown", "user_id": 42, "item_id": 50, "model": "user-item", "p": 0.8}]}],
    "Stored": [{"stored": 1, "repeated": False}],
}
"""By the name of the schema; long lists and tables are cut."""

_NO_TITLE = "there is no title 'Tye Story', did you mean 'Toy Story (1995)'?"
_DETAILS = {
    400: "the body is no JSON: Expecting ':' delimiter at line 2, column 13",
    401: "expected the API key: Authorization: Bearer KEY",
    403: "names a host other than this machine, expected an API key for that",
    404: "there is no user 'nobody', expected one with ratings in the log or in the store",
    408: "no bytes of the body within 30 s",
    409: "the key was stored with another body, expected a key of its own",
    413: "the body is too large, expected at most 4,194,304 bytes",
    415: "the body has no Content-Type, send Content-Type: application/json",
    422: f"history[0]: {_NO_TITLE}",
    429: "64 requests wait, expected a later try",
    503: "the models of demo are being loaded, for 12 s so far",
}


def problem(status: int) -> dict[str, Any]:
    """A problem of a status."""
    found = {"type": LOADING if status == 503 else "about:blank", "title": HTTPStatus(status).phrase, "status": status,
             "detail": _DETAILS[status]}  # fmt: skip
    return found | ({"errors": [{"place": "history[0]", "detail": _NO_TITLE}]} if status == 422 else {})


EXAMPLES["Problem"] = [problem(422)]
