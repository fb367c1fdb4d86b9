"""A page's elements, and whether they are well-formed."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Tree(HTMLParser):
    """Every opened element, with a failure for one that is not closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def count(self, tag: str) -> int:
        return sum(t == tag for t, _ in self.elements)

    @property
    def ids(self) -> set[str]:
        return {a["id"] for _, a in self.elements if a.get("id")}

    @property
    def asks_elsewhere(self) -> list[tuple[str, dict[str, str | None]]]:
        """Elements that name something outside the page."""
        names = ("src", "href", "xlink:href", "data", "srcset")
        return [
            (tag, attributes)
            for tag, attributes in self.elements
            if any(not (attributes.get(name) or "data:").startswith(("data:", "#")) for name in names)
        ]
