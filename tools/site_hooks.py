"""What the documentation site needs beyond the pages in docs/: hooks that mkdocs calls.

The pages are written for a repository browser as well, so they may point at documents above docs/. For the
site those documents become pages of it, and the links are turned to them. Each page is then looked at: it
loads nothing from another host, so that a reader's browser tells nobody what he reads, and has no role of
Sphinx's left in it as raw text.
"""

from __future__ import annotations

import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

# The name is mkdocs' own tree: with `strict`, a warning there fails the build.
log = logging.getLogger("mkdocs.hooks.site")

ROOT: Final = Path(__file__).resolve().parent.parent
#: Documents above docs/, and the page that each one is on the site.
ABOVE: Final = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
}
#: Those of them that are made from the document; the others are pages of their own.
MADE: Final = [name for name, page in ABOVE.items() if page != "index.md"]

_LINK: Final = re.compile(
    r"\[(?P<text>[^\[\]]*)\]\((?!https?:|mailto:|#)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)"
)
_LOADING: Final = {"src", "srcset", "poster", "data"}
_ROLE: Final = re.compile(r":(?:class|meth|attr|func|mod|exc|data):(?=<code>|`)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents above docs/ as pages."""
    from mkdocs.structure.files import File

    for name in MADE:
        text = for_site((ROOT / name).read_text(encoding="utf-8"), Path(name).parent)
        files.append(File.generated(config, ABOVE[name], content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn a page's links to documents above docs/ to their pages."""
    if page.file.generated_by is not None:
        return markdown
    return for_site(markdown, Path("docs", page.file.src_uri).parent)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Warn of whatever the page would load from another host, and of roles that nothing has read."""
    for address in foreign(output):
        log.warning("%s loads %s, which is on another host", page.file.src_uri, address)
    for role in _ROLE.findall(output):
        log.warning("%s has the role %s as text", page.file.src_uri, role)
    return output


def for_site(markdown: str, folder: Path) -> str:
    """`markdown`, a document in `folder` of the repository, with its links as they are on the site."""
    depth = len(folder.parts) - 1 if folder.parts[:1] == ("docs",) else 0

    def turned(link: re.Match[str]) -> str:
        text, target, anchor = link["text"], _resolved(folder, link["target"]), link["anchor"] or ""
        if target in ABOVE:
            target = f"docs/{ABOVE[target]}"
        if not target.startswith("docs/"):
            return text  # a file of the repository, which the site does not have
        return f"[{text}]({'../' * depth}{target.removeprefix('docs/')}{anchor})"

    # Markdown inside of HTML is read as such only where that is asked for; a repository browser always does.
    return _LINK.sub(turned, markdown).replace("<details>", '<details markdown="1">')


def foreign(html: str) -> list[str]:
    """The addresses on other hosts that a browser would load to show `html`."""
    finder = _Loads()
    finder.feed(html)
    return [address for address in finder.found if re.match(r"(?:https?:)?//", address)]


def _resolved(folder: Path, link: str) -> str:
    parts: list[str] = []
    for part in (*folder.parts, *link.split("/")):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


class _Loads(HTMLParser):
    """Collects what the tags of a page load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag loads: its sources, and what a <link> other than a mere relation points at."""
        values = dict(attrs)
        relations = (values.get("rel") or "").split()
        for name, value in attrs:
            loads = name in _LOADING or (
                tag == "link" and name == "href" and not {"canonical", "next", "prev"} & set(relations)
            )
            if loads and value:
                self.found.append(value.strip())
