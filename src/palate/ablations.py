"""The ablations: changes of the prompt that show what a model uses.

To add one, add it to the list; the config, the command line and the tables read it. `palate.measure.ablations` applies
them and measures the difference.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Ablation:
    """A change of the prompt: another text for one field, or another history."""

    name: str
    title: str
    """The change, in tables and at the start of a sentence."""
    effect: str
    """What a worse ranking would show: "the titles help"; its first words name what the change removes."""
    field: str = ""
    """The field of both lines that shows `text` instead of its value."""
    text: str = ""
    history: Literal["kept", "shuffled", "empty"] = "kept"

    @property
    def removed(self) -> str:
        """What the change removes, such as "the titles"."""
        return self.effect.rpartition(" ")[0]


ABLATIONS = {
    ablation.name: ablation
    for ablation in (
        Ablation("titles", "hiding all titles", "the titles help", field="title", text="(hidden)"),
        Ablation("shuffle", "shuffling the history", "the history's order helps", history="shuffled"),
        Ablation("empty", "emptying the history", "the history helps", history="empty"),
        Ablation(
            "ratings", "hiding the history's ratings", "the ratings in the history help", field="rating", text="?"
        ),
        Ablation("vectors", "hiding the items' vectors", "the items' vectors help", field="item_vector", text="?"),
    )
}
