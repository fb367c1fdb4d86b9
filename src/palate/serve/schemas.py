"""The bodies of requests and answers, checked by pydantic and documented in the OpenAPI description."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WrapValidator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from palate.errors import did_you_mean
from palate.validation import shown

HISTORY, CANDIDATES, TOP = 2_000, 2_000, 100
"""Most ratings of a history, candidates of a request, and recommendations."""
RATINGS = 1_000
"""Most ratings or events that one request stores."""
TEXT = 500
"""Most characters of a title, a query or an id."""

LOADING = "urn:palate:loading"
"""The type of the problem that models are being loaded: the same request is answered later."""

Text = Annotated[str, Field(min_length=1, max_length=TEXT)]


def _no_flag(value: Any) -> Any:
    """Refuse true and false, which pydantic takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"is {shown(value)}, expected a number")
    return value


def _one_of(expected: str) -> WrapValidator:
    """One line for a value that fits no branch of a union; pydantic has one for each branch."""

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(f"is {shown(value)}, expected {expected}") from None

    return WrapValidator(check)


def _short(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, int) and len(str(value)) > TEXT):
        raise ValueError
    return value


ItemId = Annotated[int | Text, BeforeValidator(_short), _one_of(f"a whole number or a text of 1 to {TEXT} characters")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Rating = Annotated[Number, BeforeValidator(_no_flag)]
Probability = Annotated[float, Field(ge=0, le=1)]


class _Body(BaseModel):
    """Rejects unknown fields, as a mistyped one would change the answer without a word, and texts of numbers."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        """Refuse unknown fields with the nearest known one."""
        names = cls.model_fields
        if not isinstance(value, dict) or value.keys() <= names.keys():
            return value
        unknown = []
        for name in (str(name) for name in value if name not in names):
            hint = did_you_mean(name, names) or f", expected one of {', '.join(names)}"
            kind = PydanticCustomError("no_field", f"is no field{hint}")
            unknown.append(InitErrorDetails(type=kind, loc=(name,), input=None))
        raise ValidationError.from_exception_data(cls.__name__, unknown)


class Item(_Body):
    """An item, by its id or by its title."""

    item_id: ItemId | None = Field(None, description="an id of the item table, a number or a text; null: by title")
    title: Text | None = Field(
        None, description="the title as the item table has it, in any case; null: by item_id", examples=["Fargo (1996)"]
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.item_id is None) == (self.title is None):
            raise ValueError(f"has {'neither' if self.title is None else 'both'}, expected either item_id or title")
        return self


class Rated(Item):
    """An item and its rating, on the scale of the log."""

    rating: Rating = Field(examples=[4.5], description="on the scale of the log, `scale` of GET /v1/model")
    timestamp: int | None = Field(
        None, ge=0, le=1 << 40, description="seconds since 1970, for models that read times; null: now"
    )


class Person(_Body):
    """Who asks: either a user of the log or of the store, or a history."""

    user_id: ItemId | None = Field(
        None,
        description="a user of the log or of the store, whose ratings count, those stored by this service too; "
        "not together with `history`; null: a history",
    )
    history: list[Rated] | None = Field(
        None,
        max_length=HISTORY,
        description="ratings, the oldest first, in place of a user's: nothing of a user is read, stored ratings and "
        "dismissals neither; an empty list is a person without ratings; an item comes once, or at several timestamps; "
        "null: those of `user_id`",
    )

    @model_validator(mode="after")
    def _someone(self) -> Self:
        if self.user_id is None and self.history is None:
            raise ValueError("has neither user_id nor history, expected one")
        if self.user_id is not None and self.history is not None:
            raise ValueError(
                "has both user_id and history, expected one: a history takes the place of a user's ratings"
            )
        return self


class Asked(Person):
    """Who asks, and which model answers."""

    model: Text | None = Field(None, description="a key of GET /v1/model; null: its `default`")
    beside: list[Text] = Field(
        [], max_length=30, description="keys of further models, whose P(like) stands beside each item; each takes time"
    )


class ScoreRequest(Asked):
    """Score candidates for a person."""

    candidates: list[Item] = Field(
        min_length=1, max_length=CANDIDATES, description="items to score, rated ones too; the answer has their order"
    )


class Between(_Body):
    """A filter on a numeric column: bounds that are part of the range."""

    min: Number | None = Field(None, description="the least value that passes; null: no bound below")
    max: Number | None = Field(None, description="the greatest value that passes; null: no bound above")


Filter = Annotated[
    bool | Number | Text | Between | Annotated[list[Number | Text], Field(max_length=100)],
    _one_of('a text, a number, true or false, a list of up to 100 texts or numbers, or {"min": 1, "max": 2}'),
]
"""One value, several of which one must hold, or bounds. A column of several values (genres) must contain it."""


class RecommendRequest(Asked):
    """The best items for a person."""

    top_k: int = Field(10, ge=1, le=TOP, description="most items to recommend")
    filters: dict[Text, Filter] = Field(
        {},
        max_length=20,
        description="conditions that an item must all pass, by column (`filters` of GET /v1/model): a value, several "
        "of which one must hold, or bounds of numbers; texts in any case; a text that no item has is refused",
    )
    candidates: list[Item] | None = Field(
        None,
        min_length=1,
        max_length=CANDIDATES,
        description="items to choose from, of which filters and rated items are left out; null: `retriever` finds them",
    )
    retriever: Literal["classical", "item-knn", "popularity", "all"] = Field(
        "classical",
        description="the first stage, which finds the items that the model scores: the best classical model over all "
        "items (over 2,000 that item-kNN finds in a larger catalogue), item-kNN, the number of likes, or none",
    )
    retrieve: int | None = Field(
        None,
        ge=1,
        le=CANDIDATES,
        description="items that the first stage finds, at least `top_k`; null: 50 for a language model (or what "
        "--retrieve of the service says), and for a classical model all",
    )
    include_seen: bool = Field(False, description="recommend items, too, that the person has rated or dismissed")
    stream: bool = Field(False, description="answer with server-sent events as candidates are scored")


class Scored(BaseModel):
    """An item with a model's answer."""

    item_id: int | str = Field(description="the item's id, a number or a text as in the item table")
    title: str = Field(description="the item's title; empty if it has none")
    p: Probability = Field(description="P(like), calibrated if the model is")
    logit: float = Field(
        description="log-odds by which items are ranked: of `p`, or of a language model alone those before calibration"
    )
    mass: float | None = Field(
        None,
        description="probability, from 0 to 1, of both answers together; near 0 the language model would say something "
        "else; null for a classical model",
    )
    beside: dict[str, Probability] = Field(
        {}, description="P(like) by the models that the request names beside, by key"
    )


class Answered(BaseModel):
    """Who answered."""

    model: str = Field(description="key of the model that answered")
    label: str = Field(description="its name for people")
    calibrated: bool = Field(description="whether P(like) was fitted to validation ratings; else trust the order alone")
    ratings: int = Field(description="ratings of the person that the model could read")


class ScoreAnswer(Answered):
    """Scores in the order of the candidates."""

    scores: list[Scored] = Field(description="one for each candidate, in their order")


class RecommendAnswer(Answered):
    """Recommendations, the best first."""

    recommendations: list[Scored] = Field(
        description="the best first, at most `top_k`; empty if no item passes the filters"
    )
    candidates: int = Field(description="items that the model scored")
    retriever: str | None = Field(description="the first stage that found them; null: the request listed them")
    left_out: int = Field(description="items that were left out because the person has rated them")


class Started(BaseModel):
    """The stream's event `start`: what will be scored."""

    model: str = Field(description="key of the model that answers")
    candidates: int = Field(description="items that the model will score")
    retriever: str | None = Field(description="the first stage that found them; null: the request listed them")
    left_out: int = Field(description="items that were left out because the person has rated them")


class ScoredPart(BaseModel):
    """The stream's event `scored`: those of the newly scored items that are among the best `top_k` so far.

    `beside` has the classical models; the others come with `end`.
    """

    items: list[Scored] = Field(description="the new ones among the best so far, the best first; may be empty")
    done: int = Field(description="candidates scored so far")
    of: int = Field(description="candidates in all")


class ExplainRequest(Asked):
    """Why this score: which ratings move it."""

    candidate: Item = Field(description="the item whose score is explained, rated or not")


class Effect(BaseModel):
    """What one rating does to a score."""

    item_id: int | str = Field(description="the item's id, a number or a text as in the item table")
    title: str = Field(description="the item's title; empty if it has none")
    rating: float = Field(description="the person's rating of this item")
    effect: float = Field(description="the logit with this rating less that without it; positive raises the score")
    p_without: Probability = Field(description="P(like) of the candidate without this rating")


class ExplainAnswer(Answered):
    """A score, and each rating's effect on it, in the order of the history."""

    score: Scored = Field(description="the candidate with all ratings")
    effects: list[Effect] = Field(
        description="of the last ratings: 30 for a classical model, as many as the prompt shows for a language model"
    )


class PromptRequest(Person):
    """What a language model reads for one candidate."""

    candidate: Item = Field(description="the item that the prompt asks about, rated or not")


class Token(BaseModel):
    """A token of the prompt."""

    id: int = Field(description="number in the tokenizer's vocabulary")
    text: str = Field(description="the token's own text; a part of a character is \ufffd")
    part: Literal["template", "text", "answer"] = Field(
        description="of the chat template, of the prompt's text, or the answer, which training learns"
    )


class PromptAnswer(BaseModel):
    """The prompt, token by token, with both answers at its end."""

    tokens: list[Token] = Field(description="the prompt in its order, then the two answers")
    yes: str = Field(description="the answer that means like")
    no: str = Field(description="the answer that means dislike")


class ItemAnswer(BaseModel):
    """An item with all its columns."""

    item_id: int | str = Field(description="the item's id, a number or a text as in the item table")
    title: str = Field(description="the item's title; empty if it has none")
    columns: dict[str, Any] = Field(description="the item table's other columns by name; null for an empty one")


class ItemsAnswer(BaseModel):
    """Items found by title, the closest first."""

    items: list[ItemAnswer] = Field(description="at most `limit`; empty if no title resembles the query")


class UserRating(BaseModel):
    """A rating of a user."""

    item_id: int | str = Field(description="the item's id, a number or a text as in the item table")
    title: str = Field(description="the item's title; empty if it has none")
    rating: float = Field(description="on the scale of the log")
    timestamp: int = Field(description="seconds since 1970")
    stored: bool = Field(description="given through this service, after the models were trained")


class UserAnswer(BaseModel):
    """A user's ratings, the oldest first."""

    user_id: int | str = Field(description="the user's id, a number or a text as in the log")
    ratings: list[UserRating] = Field(description="of an item in log and store the newer one")


class ModelEntry(BaseModel):
    """A model that the service can ask."""

    key: str = Field(description="what `model` and `beside` of a request name")
    label: str = Field(description="its name for people")
    kind: Literal["baseline", "language model", "sum"] = Field(
        description="a classical model, a language model, or the sum of both"
    )
    calibrated: bool = Field(description="whether P(like) was fitted to validation ratings")
    auc: float | None = Field(None, description="area under the ROC curve on the run's test rows; null: not measured")
    rows: int | None = Field(None, description="number of these rows; null: not measured")


class ModelAnswer(BaseModel):
    """What serves."""

    palate: str = Field(description="version of the service")
    run: str = Field(description="name of the run")
    default: str = Field(description="key of the model that answers where a request names none")
    models: list[ModelEntry] = Field(description="the models that can be asked")
    base: str | None = Field(description="name of the base model; null: the run has no language model")
    adapter: str | None = Field(description="folder of the adapter within the run; null: there is none")
    prompt: dict[str, Any] | None = Field(description="the run's `prompt` options; null: no language model")
    calibration: dict[str, Any] | None = Field(
        description="the sum of a classical and the language model: `baseline`, `alpha` and `intercept`; null: the "
        "language model stands alone, or is absent"
    )
    data: dict[str, Any] = Field(description="counts of the run's log: users, items, ratings")
    scale: tuple[float, float] = Field(description="least and greatest rating")
    threshold: float = Field(description="the least rating that counts as liked")
    filters: dict[str, Literal["number", "text", "list", "flag"]] = Field(
        description="the columns that filter, and their kind: a number, a text, several texts, or true and false"
    )
    filter_values: dict[str, list[str]] = Field(
        {}, description="the values of text and list columns that have at most 200, but not of `item_id` and `title`"
    )
    why: list[str] = Field([], description="which model to use and why, from the run's ladder")
    verdict: list[str] = Field(description="sentences that sum up the run's evidence; empty: not measured")
    metrics: dict[str, Any] = Field(description="by model, on the run's test rows")


class NewRating(_Body):
    """A rating that a user gave."""

    user_id: ItemId = Field(description="who rated; a user whom the log lacks is new")
    item_id: ItemId = Field(description="an id of the item table")
    rating: Rating = Field(description="on the scale of the log, `scale` of GET /v1/model")
    timestamp: int | None = Field(None, ge=0, le=1 << 40, description="seconds since 1970; null: now")


class RatingsRequest(_Body):
    """Ratings to store."""

    key: Text | None = Field(
        None, description="a name for this request: repeated with its key it is stored once; null: stored each time"
    )
    ratings: list[NewRating] = Field(
        min_length=1, max_length=RATINGS, description="stored all or none; of an item rated again the newest counts"
    )


class NewEvent(_Body):
    """Something that happened to a recommendation."""

    event: Literal["shown", "clicked", "dismissed"] = Field(
        description="what happened; a dismissed item is not recommended to this user again"
    )
    user_id: ItemId = Field(description="whose recommendation it was")
    item_id: ItemId = Field(description="an id of the item table")
    timestamp: int | None = Field(None, ge=0, le=1 << 40, description="seconds since 1970; null: now")
    model: Text | None = Field(
        None, description="key of the model that recommended it, of GET /v1/model; null: unknown"
    )
    p: Probability | None = Field(None, description="the P(like) that it gave, for the calibration; null: unknown")


class EventsRequest(_Body):
    """Events to store."""

    key: Text | None = Field(
        None, description="a name for this request: repeated with its key it is stored once; null: stored each time"
    )
    events: list[NewEvent] = Field(min_length=1, max_length=RATINGS, description="stored all or none")


class Stored(BaseModel):
    """What is durable now."""

    stored: int = Field(description="new rows; 0 if the key was stored before")
    repeated: bool = Field(description="whether the key was stored before")


class Wrong(BaseModel):
    """One thing that is wrong in a request."""

    place: str = Field(description="where, as in JavaScript: `candidates[0].item_id`; empty: the whole body")
    detail: str = Field(description="what is wrong there, and what is expected")


class Problem(BaseModel):
    """An error (RFC 9457), as `application/problem+json`."""

    type: str = Field("about:blank", description=f"`{LOADING}` while the models are being loaded, else about:blank")
    title: str = Field(description="the status in words")
    status: int = Field(description="the HTTP status")
    detail: str = Field(description="the place, what is wrong there, and what is expected, for people")
    errors: list[Wrong] | None = Field(None, description="all that is wrong in the request, 20 at most; null elsewhere")
