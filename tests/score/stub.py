"""A server whose every answer is known and may be spoilt: real ones do not fail on demand, nor in all forms."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

Spoil = Callable[[BaseHTTPRequestHandler, int], bool]
"""Given the handler and the number of the request, whether it answered itself."""


@dataclass
class Stub:
    """What is served, and how it is told; `asked` are the bodies that came."""

    tokenizer: Any
    form: str = "vllm"  # or "text", "llama.cpp"
    after_bias: bool = False
    top: int = 20
    scale: float = 1.0  # of what a bias is worth
    bos: int = 0  # tokens added to each prompt
    takes_ids: bool = True
    key: str | None = None
    names: tuple[str, ...] = ("base", "adapter")
    endpoint: str | None = None  # or "/generative_scoring" as vLLM, "/v1/score" as SGLang
    off: float = 0.0  # added to the log-probabilities that the endpoint tells
    spoil: Spoil = lambda handler, n: False
    asked: list[Any] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        texts = [self.tokenizer.decode([n]) for n in range(len(self.tokenizer))]
        self.broken = [n for n, text in enumerate(texts) if "\N{REPLACEMENT CHARACTER}" in text]

    def log_p(self, model: str, prompt: list[int], bias: dict[str, float] | None = None) -> np.ndarray[Any, Any]:
        """The distribution behind a prompt."""
        draw = np.random.default_rng([self.names.index(model), *prompt])
        logits = draw.normal(0, 4, len(self.tokenizer))
        logits[self.broken] -= 30
        for token, value in (bias or {}).items():
            logits[int(token)] += value * self.scale
        return np.asarray(logits - np.logaddexp.reduce(logits))

    def complete(self, body: Any) -> Any:
        prompt = body["prompt"]
        if isinstance(prompt, str):
            prompt = self.tokenizer.backend_tokenizer.encode(prompt, add_special_tokens=False).ids
        biased = self.log_p(body["model"], prompt, body.get("logit_bias"))
        told = biased if self.after_bias else self.log_p(body["model"], prompt)
        chosen = int(biased.argmax())
        best = np.argsort(-told)[: self.top].tolist()
        usage = {"prompt_tokens": len(prompt) + self.bos}
        text = self.tokenizer.decode([chosen])
        if self.form == "llama.cpp":
            listed = [{"id": n, "token": self.tokenizer.decode([n]), "logprob": told[n]} for n in best]
            first = {"id": chosen, "token": text, "logprob": told[chosen], "top_logprobs": listed}
            return {"choices": [{"text": text, "logprobs": {"content": [first]}}], "usage": usage}
        named = (lambda n: f"token_id:{n}") if self.form == "vllm" else (lambda n: self.tokenizer.decode([n]))
        every = best if chosen in best else [*best, chosen]
        logprobs = {
            "tokens": [named(chosen)],
            "token_logprobs": [told[chosen]],
            "top_logprobs": [{named(n): told[n] for n in reversed(every)}],
        }
        return {"choices": [{"text": text, "logprobs": logprobs}], "usage": usage}

    def score(self, path: str, body: Any) -> Any:
        """The probabilities of the labels behind query and item: of all as SGLang, of the first as vLLM."""
        assert not body["apply_softmax"]
        assert not body["item_first"]
        rows = [np.exp(self.log_p(body["model"], [*body["query"], *item]) + self.off) for item in body["items"]]
        if path == "/v1/score":
            return {"scores": [[row[label] for label in body["label_token_ids"]] for row in rows]}
        data = [{"index": n, "score": row[body["label_token_ids"][0]]} for n, row in enumerate(rows)]
        return {"object": "list", "data": data[::-1]}

    def reply(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, {"data": [{"id": name} for name in self.names]}
        if path == self.endpoint:
            return 200, self.score(path, body)
        if path != "/v1/completions":
            return 404, {"detail": "Not Found"}
        if body["model"] not in self.names:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        if not self.takes_ids and not isinstance(body["prompt"], str):
            return 400, {"error": {"message": "prompt: expected a string"}}
        return 200, self.complete(body)


@contextmanager
def serving(stub: Stub) -> Iterator[str]:
    """Serve a stub on loopback; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, body: Any) -> None:
            with stub.lock:
                stub.asked.append(body)
                n = len(stub.asked)
            if stub.spoil(self, n):
                return
            if stub.key is not None and self.headers.get("Authorization") != f"Bearer {stub.key}":
                send(self, 401, {"error": "no"})
                return
            send(self, *stub.reply(self.path, body))

        def do_GET(self) -> None:
            self.answer(None)

        def do_POST(self) -> None:
            self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def send(handler: BaseHTTPRequestHandler, status: int, body: Any, **headers: str) -> None:
    """Answer with JSON, or with bytes as they are."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(raw)))
    handler.end_headers()
    handler.wfile.write(raw)
