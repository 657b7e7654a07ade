"""What holds for every page, whatever it shows."""

from collections import Counter
from html.parser import HTMLParser


class Page(HTMLParser):
    """A page taken apart."""

    VOID = frozenset({"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {"h1": [], "title": []}
        self._open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag in self.texts and "svg" not in self._open:
            self.texts[tag].append("")
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag in self.texts:
            if tag in self._open and "svg" not in self._open:
                self.texts[tag][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of every such tag."""
        return [attributes for name, attributes in self.tags if name == tag]


def plain(text: str) -> str:
    """A text with its blanks folded."""
    return " ".join(text.split())


def check_page(html: str) -> None:
    """One h1 that the title begins with, no id twice, own form targets only, nothing inline, images described."""
    page = Page(html)
    assert len(page.texts["h1"]) == 1, f"{len(page.texts['h1'])} h1"
    heading, title = plain(page.texts["h1"][0]), plain(page.texts["title"][0])
    assert heading
    assert title.startswith(heading), f"title {title!r} does not begin with heading {heading!r}"
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert not [name for name, count in ids.items() if count > 1], "an id stands twice"
    for form in page.all("form"):
        assert form.get("action", "/").startswith("/"), f"a form leads to {form['action']}"
    for tag, attributes in page.tags:
        assert "style" not in attributes, f"inline style at <{tag}>"
        assert not [name for name in attributes if name.startswith("on")], f"inline script at <{tag}>"
        assert tag != "style", "inline <style>"
        assert tag != "script" or attributes.get("src"), "inline script"
        assert tag != "img" or "alt" in attributes, "an image without alt"
    for label in page.all("label"):
        assert "for" not in label or label["for"] in ids, f"a label for nothing: {label['for']}"
    [root] = page.all("html")
    assert root["lang"]
    assert root["dir"] in ("ltr", "rtl")


def field(html: str, name: str) -> str:
    """The value of a page's first field of that name."""
    for attributes in Page(html).all("input"):
        if attributes.get("name") == name:
            return attributes["value"]
    raise AssertionError(f"the page has no field {name}")


def heading(html: str) -> str:
    """The page's h1."""
    return plain(Page(html).texts["h1"][0])


def required_fields(html: str) -> dict[str, str]:
    """Something for each field that a page requires and leaves empty: a fork's form may ask for more than ours."""
    values = {"email": "sara@example.com", "number": "1", "tel": "+966501234567", "url": "https://example.com"}
    tags = Page(html).tags
    found = {}
    for position, (tag, attributes) in enumerate(tags):
        if "required" not in attributes or attributes.get("value"):
            continue
        if tag == "select":
            options = (one["value"] for name, one in tags[position:] if name == "option" and one.get("value"))
            found[attributes["name"]] = next(options)
        elif tag in ("input", "textarea"):
            found[attributes["name"]] = values.get(attributes.get("type", ""), "Whatever is asked")
    return found
