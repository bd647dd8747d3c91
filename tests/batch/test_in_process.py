"""Without a kernel a notebook keeps what it would keep with one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from jepa.batch import run_notebook

pytestmark = pytest.mark.slow

CELLS = (
    "import sys\nprint('to the log'); print('and on'); print('a warning', file=sys.stderr)",
    "from IPython.display import HTML, display\nhandle = display(HTML('<b>one</b>'), display_id='one')\n'the value'",
    "display(HTML('<i>two</i>'), display_id='one', update=True)\nNone",
    "import asyncio\nawait asyncio.sleep(0.01)\n%time sum(range(9))",
    "get_ipython().system('echo from a shell')\n_ = 3",
    "import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()",
    "import plotly.graph_objects as go\ngo.Figure(go.Scatter(y=[1, 2]))",
    "for part in range(3):\n    from IPython.display import clear_output\n    clear_output(); print(part)",
    "num_epochs, shape",
)


def kept(folder: Path) -> list[Any]:
    """What the cells of an executed notebook show, without what differs from run to run."""
    cells = nbformat.read(folder / "notebook.ipynb", as_version=4).cells
    told = json.dumps([(cell.get("execution_count"), cell.get("outputs")) for cell in cells], ensure_ascii=False)
    told = re.sub(r"[0-9.]+ [a-zµμ]?s\b|0x[0-9a-f]+|[0-9a-f]{8}-[0-9a-f-]{27}", "-", told)
    return [(count, [trimmed(output) for output in outputs or []]) for count, outputs in json.loads(told)]


def trimmed(output: dict[str, Any]) -> dict[str, Any]:
    """An output by its kind, its texts, and the kinds of its data."""
    data = output.get("data", {})
    texts = {kind: data[kind] for kind in ("text/html", "text/plain") if kind in data and len(data[kind]) < 200}
    return {"type": output["output_type"], "text": output.get("text"), "kinds": sorted(data), **texts}


def test_outputs_are_those_of_a_kernel(tmp_path: Path, make_notebook: Callable[..., Path]) -> None:
    notebook = make_notebook(tmp_path / "shows.ipynb", *CELLS)
    found = {}
    for engine in ("process", "kernel"):
        options: dict[str, Any] = {"name": engine, "runs_dir": tmp_path, "engine": engine}
        result = run_notebook(notebook, {"num_epochs": 7}, **options)
        assert result.status == "finished", result.error
        assert "to the log\nand on" in (tmp_path / engine / "logs" / "rank-0.log").read_text()
        found[engine] = kept(tmp_path / engine)
    assert found["process"] == found["kernel"]


def test_an_error_is_named_with_its_cell_and_kept_in_the_notebook(
    tmp_path: Path, make_notebook: Callable[..., Path]
) -> None:
    notebook = make_notebook(tmp_path / "fails.ipynb", "print('before')", "{}['missing']", "print('after')")
    result = run_notebook(notebook, name="a", runs_dir=tmp_path, engine="process")
    assert (result.status, result.error) == ("failed", "rank 0, cell 4: KeyError: 'missing'")
    *_, before, failed, after = nbformat.read(result.folder / "notebook.ipynb", as_version=4).cells
    assert before.outputs[0].text == "before\n"
    assert failed.outputs[0].ename == "KeyError"
    assert "missing" in "".join(failed.outputs[0].traceback)
    assert not after.outputs


def test_an_unknown_engine_starts_nothing(tmp_path: Path, make_notebook: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="engine must be one of kernel, process, got 'papermill'"):
        run_notebook(make_notebook(tmp_path / "a.ipynb"), name="a", runs_dir=tmp_path, engine="papermill")
    assert not (tmp_path / "a").exists()
