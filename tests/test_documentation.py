"""What the pages show is true: their Python runs, and their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("docs/concepts/*.md")]
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", [name for name, page in zip(NAMES, PAGES, strict=True) if python_blocks(page)])
def test_python_on_a_page_runs_from_top_to_bottom(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "page"}
    for number, block in enumerate(python_blocks(ROOT / name), start=1):
        exec(compile(block, f"{name}, block {number}", "exec"), scope)


@pytest.mark.parametrize("name", NAMES)
def test_relative_links_lead_somewhere(name: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    # The documentation copies the notebooks into its folder `tutorials`.
    paths = [(ROOT / name).parent / target.replace("tutorials/", "../notebooks/") for target in targets]
    assert [str(path) for path in paths if not path.exists()] == []
