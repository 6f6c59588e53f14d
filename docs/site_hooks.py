"""Add pages to the site beside those of docs/: the files of the repository that they link to, and the notebook."""

import json
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Pages made from files of the repository; links to the files lead to the pages.
PAGES = {
    "README.md": "overview.md",
    "INSTALL.md": "install.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs/tour.ipynb": "tour.md",
}
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of `PAGES`; licence and configs as they are."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_as_markdown(text) if source.endswith("ipynb") else text))
    for path in [ROOT / "LICENSE", *sorted(ROOT.glob("configs/*/*.yaml"))]:
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Let links between files of the repository lead to where the site has them."""
    from_root = page.file.src_uri in PAGES.values() and page.file.src_uri != "tour.md"

    def lead(match: re.Match[str]) -> str:
        path = match[1] if from_root else f"docs/{match[1]}"
        path = re.sub(r"^docs/\.\./", "", path)
        return PAGES.get(path, path.removeprefix("docs/"))

    return _LINK.sub(lead, markdown)


def _as_markdown(notebook: str) -> str:
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(notebook)["cells"]]
    return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells)
