"""The bodies of requests and answers, checked by pydantic and documented in the OpenAPI description."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

HISTORY, CANDIDATES, TOP = 2_000, 2_000, 100
"""Most ratings of a history, candidates of a request, and recommendations."""
RATINGS = 1_000
"""Most ratings or events that one request stores."""
TEXT = 500
"""Most characters of a title, a query or an id."""

Text = Annotated[str, Field(min_length=1, max_length=TEXT)]


def _no_flag(value: Any) -> Any:
    """Refuse true and false, which pydantic takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("is true or false, expected a number")
    return value


def _short(value: int | str) -> int | str:
    if len(str(value)) > TEXT:
        raise ValueError(f"has more than {TEXT} digits")
    return value


ItemId = Annotated[int | Text, BeforeValidator(_no_flag), AfterValidator(_short)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Rating = Annotated[Number, BeforeValidator(_no_flag)]
Probability = Annotated[float, Field(ge=0, le=1)]


class _Body(BaseModel):
    """Rejects unknown fields, as a mistyped one would change the answer without a word, and texts of numbers."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Item(_Body):
    """An item, by its id or by its title."""

    item_id: ItemId | None = None
    title: Text | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.item_id is None) == (self.title is None):
            raise ValueError("expected either item_id or title")
        return self


class Rated(Item):
    """An item and its rating, on the scale of the log."""

    rating: Rating = Field(examples=[4.5])
    timestamp: int | None = Field(None, ge=0, le=1 << 40, description="seconds since 1970; now without it")


class Person(_Body):
    """Who asks: a user of the log or of the store, or a history, oldest first; a history wins over the user's own."""

    user_id: ItemId | None = None
    history: list[Rated] | None = Field(None, max_length=HISTORY)

    @model_validator(mode="after")
    def _someone(self) -> Self:
        if self.user_id is None and self.history is None:
            raise ValueError("expected user_id or history")
        return self


class Asked(Person):
    """Who asks, and which model answers."""

    model: Text | None = Field(None, description="a key of GET /v1/model; without it the recommended model")
    beside: list[Text] = Field([], max_length=30, description="further models, whose P(like) stands beside")


class ScoreRequest(Asked):
    """Score candidates for a person."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "history": [{"title": "Toy Story (1995)", "rating": 5}, {"item_id": 50, "rating": 4}],
                    "candidates": [{"title": "Fargo (1996)"}, {"item_id": 172}],
                }
            ]
        }
    )
    candidates: list[Item] = Field(min_length=1, max_length=CANDIDATES)


class Between(_Body):
    """A filter on a numeric column: bounds that are part of the range."""

    min: Number | None = None
    max: Number | None = None


Filter = bool | Number | Text | Between | Annotated[list[Number | Text], Field(max_length=100)]
"""One value, several of which one must hold, or bounds. A column of several values (genres) must contain it."""


class RecommendRequest(Asked):
    """The best items for a person."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"user_id": 42, "top_k": 5},
                {"history": [{"item_id": 50, "rating": 4.5}], "top_k": 3, "stream": True},
                {
                    "history": [{"title": "Toy Story (1995)", "rating": 5}],
                    "top_k": 10,
                    "filters": {"genres": "Comedy", "year": {"min": 1990}},
                },
            ]
        }
    )
    top_k: int = Field(10, ge=1, le=TOP)
    filters: dict[Text, Filter] = Field({}, max_length=20, description="by any column of the items")
    candidates: list[Item] | None = Field(None, min_length=1, max_length=CANDIDATES)
    retriever: Literal["classical", "item-knn", "popularity", "all"] = Field(
        "classical",
        description="the first stage, which finds the items that the model scores: the best classical model over all "
        "items (over 2,000 that item-kNN finds in a larger catalogue), item-kNN, the number of likes, or none",
    )
    retrieve: int | None = Field(
        None,
        ge=1,
        le=CANDIDATES,
        description="how many the first stage finds; without it 50 for a language model, and for a classical one all",
    )
    include_seen: bool = False
    stream: bool = Field(False, description="answer with server-sent events as candidates are scored")


class Scored(BaseModel):
    """An item with a model's answer."""

    item_id: int | str
    title: str
    p: Probability = Field(description="P(like), calibrated if the model is")
    logit: float
    mass: float | None = Field(None, description="probability of both answers; None for a classical model")
    beside: dict[str, Probability] = Field({}, description="P(like) by the models of `beside`")


class Answered(BaseModel):
    """Who answered."""

    model: str
    label: str
    calibrated: bool
    ratings: int = Field(description="ratings of the person that the model could read")


class ScoreAnswer(Answered):
    """Scores in the order of the candidates."""

    scores: list[Scored]


class RecommendAnswer(Answered):
    """Recommendations, the best first."""

    recommendations: list[Scored]
    candidates: int = Field(description="items that the model scored")
    retriever: str | None
    left_out: int = Field(description="items that the person has rated")


class Started(BaseModel):
    """The stream's event `start`: what will be scored."""

    model: str
    candidates: int
    retriever: str | None
    left_out: int


class ScoredPart(BaseModel):
    """The stream's event `scored`: those of the newly scored items that are among the best `top_k` so far.

    `beside` has the classical models; the others come with `end`.
    """

    items: list[Scored]
    done: int = Field(description="candidates scored so far")
    of: int


class ExplainRequest(Asked):
    """Why this score: which ratings move it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"history": [{"title": "Toy Story (1995)", "rating": 5}], "candidate": {"title": "Fargo (1996)"}}
            ]
        }
    )
    candidate: Item


class Effect(BaseModel):
    """What one rating does to a score."""

    item_id: int | str
    title: str
    rating: float
    effect: float = Field(description="the logit with this rating less that without it")
    p_without: Probability


class ExplainAnswer(Answered):
    """A score, and each rating's effect on it, in the order of the history."""

    score: Scored
    effects: list[Effect]


class PromptRequest(Person):
    """What a language model reads for one candidate."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": 42, "candidate": {"item_id": 50}}]})
    candidate: Item


class Token(BaseModel):
    """A token of the prompt."""

    id: int
    text: str
    part: Literal["template", "text", "answer"] = Field(
        description="of the chat template, of the prompt's text, or the answer, which training learns"
    )


class PromptAnswer(BaseModel):
    """The prompt, token by token, with both answers at its end."""

    tokens: list[Token]
    yes: str
    no: str


class ItemAnswer(BaseModel):
    """An item with all its columns."""

    item_id: int | str
    title: str
    columns: dict[str, Any] = Field(description="the item table's other columns")


class ItemsAnswer(BaseModel):
    """Items found by title, the closest first."""

    items: list[ItemAnswer]


class UserRating(BaseModel):
    """A rating of a user."""

    item_id: int | str
    title: str
    rating: float
    timestamp: int
    stored: bool = Field(description="given through this service, after the models were trained")


class UserAnswer(BaseModel):
    """A user's ratings, the oldest first."""

    user_id: int | str
    ratings: list[UserRating]


class ModelEntry(BaseModel):
    """A model that the service can ask."""

    key: str
    label: str
    kind: Literal["baseline", "language model", "sum"]
    calibrated: bool
    auc: float | None = Field(None, description="on the run's test rows")
    rows: int | None = Field(None, description="number of these rows")


class ModelAnswer(BaseModel):
    """What serves."""

    palate: str
    run: str
    default: str
    models: list[ModelEntry]
    base: str | None
    adapter: str | None
    prompt: dict[str, Any] | None
    calibration: dict[str, Any] | None
    data: dict[str, Any]
    scale: tuple[float, float]
    threshold: float
    filters: dict[str, Literal["number", "text", "list", "flag"]] = Field(description="columns that filter, and how")
    why: list[str] = Field([], description="which model to use and why, from the run's ladder")
    verdict: list[str]
    metrics: dict[str, Any] = Field(description="by model, on the run's test rows")


class NewRating(_Body):
    """A rating that a user gave."""

    user_id: ItemId
    item_id: ItemId
    rating: Rating
    timestamp: int | None = Field(None, ge=0, le=1 << 40)


class RatingsRequest(_Body):
    """Ratings to store."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"key": "6f1e", "ratings": [{"user_id": 42, "item_id": 50, "rating": 4.5}]}]}
    )
    key: Text | None = Field(None, description="repeat a request with its key: it is stored once")
    ratings: list[NewRating] = Field(min_length=1, max_length=RATINGS)


class NewEvent(_Body):
    """Something that happened to a recommendation."""

    event: Literal["shown", "clicked", "dismissed"]
    user_id: ItemId
    item_id: ItemId
    timestamp: int | None = Field(None, ge=0, le=1 << 40)
    model: Text | None = None
    p: Probability | None = None


class EventsRequest(_Body):
    """Events to store."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"events": [{"event": "shown", "user_id": 42, "item_id": 50, "model": "strongest", "p": 0.8}]}]
        }
    )
    key: Text | None = Field(None, description="repeat a request with its key: it is stored once")
    events: list[NewEvent] = Field(min_length=1, max_length=RATINGS)


class Stored(BaseModel):
    """What is durable now."""

    stored: int = Field(description="new rows; 0 if the key was stored before")
    repeated: bool


class Problem(BaseModel):
    """An error (RFC 9457), as `application/problem+json`."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[dict[str, Any]] | None = Field(None, description="what is wrong in the body, by place")
