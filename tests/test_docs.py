"""The site of the documentation: every link leads somewhere, and nothing is asked of other hosts."""

import re
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    # Strict: a page that the navigation lacks, or a link to a page, heading or file that is not there, ends the build.
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_links_to_files_of_the_repository_lead_to_them(site):
    zoo = (site / "MODEL_ZOO.html").read_text(encoding="utf-8")
    links = set(re.findall(r'href="(configs/[^"]+)"', zoo))
    assert len(links) > 30
    assert all((site / link).read_bytes() == (ROOT / link).read_bytes() for link in links)


def test_pages_load_nothing_from_other_hosts(site):
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]* src="([^"]+)"|<link[^>]* rel="(?:stylesheet|preconnect)"[^>]* href="([^"]+)"',
            text,
        )
        assert loaded and not [url for pair in loaded for url in pair if re.match(r"\w+:|//", url)], page.name
