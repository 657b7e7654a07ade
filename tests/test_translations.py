"""Every text of the shop is translated, and the compiled catalogues are those of their sources."""

import io
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.frontend import CommandLineInterface
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "translations"
CATALOGUES = sorted(FOLDER.glob("*/LC_MESSAGES/messages.po"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """All texts in code and templates, as they are now."""
    target = tmp_path_factory.mktemp("texts") / "messages.pot"
    command = ["pybabel", "-q", "extract", "-F", str(FOLDER / "babel.cfg"), "-o", str(target), str(ROOT)]
    CommandLineInterface().run(command)  # type: ignore[no-untyped-call]
    with target.open("rb") as file:
        return read_po(file)


def read(path: Path) -> Catalog:
    """A language's catalogue."""
    with path.open("rb") as file:
        return read_po(file, locale=path.parent.parent.name)


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.parent.parent.name)
def test_every_text_is_translated(path: Path, texts: Catalog) -> None:
    known = {message.id: message for message in read(path) if message.id}
    wanted = [message.id for message in texts if message.id]
    surplus = [f"no longer in use: {old!r}" for old in known.keys() - set(wanted)]
    wrong = surplus + [f"{problem}: {one!r}" for one in wanted if (problem := fault(known.get(one), path))]
    file = path.relative_to(ROOT)
    assert not wrong, "\n".join([f"{len(wrong)} in {file}. Run `make catalogues`, and translate there:", *wrong])


def fault(found: Message | None, path: Path) -> str:
    """What is wrong with a translation, in a few words."""
    if found is None:
        return "not in the file"
    forms = found.string if isinstance(found.string, tuple) else (found.string,)
    if not all(forms):
        return "not translated"
    if found.fuzzy:
        return "marked as not sure"
    return "placeholders differ" if list(found.check(read(path))) else ""


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.parent.parent.name)
def test_the_compiled_catalogue_is_that_of_its_source(path: Path) -> None:
    compiled = io.BytesIO()
    write_mo(compiled, read(path))
    assert path.with_suffix(".mo").read_bytes() == compiled.getvalue(), "run `make catalogues`"


def test_there_is_a_catalogue_for_arabic() -> None:
    assert "ar" in [path.parent.parent.name for path in CATALOGUES]
