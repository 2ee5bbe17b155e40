"""Hooks of mkdocs: let the links of docs/ that leave it work on the site as they do on GitHub."""

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = ("RESULTS.md", "CONTRIBUTING.md", "CHANGELOG.md")
"""Pages of the repository's root that the site has, too."""
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, and the pictures in results/."""
    pictures = [str(path.relative_to(ROOT)) for path in ROOT.glob("results/**/*.png")]
    for name in (*PAGES, *pictures):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links of the site, or into text."""
    # Where a page's links start from: pages of the root lie beside docs/, all others in it.
    folder = PurePosixPath("." if page.file.src_uri in PAGES else "docs", page.file.src_uri).parent

    def link(match: re.Match[str]) -> str:
        picture, text, path, anchor = match.groups()
        if "://" in path or path.startswith("mailto:"):
            return match[0]
        target = os.path.normpath(folder / path).removeprefix("docs/")
        if files.get_file_from_path(target) is None and (ROOT / folder / path).exists():
            return text  # a file of the repository that is no page: its name must do
        start = PurePosixPath(page.file.src_uri).parent
        return f"{picture}[{text}]({os.path.relpath(target, start)}{anchor or ''})"

    return LINK.sub(link, markdown)
