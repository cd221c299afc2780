"""Take the README's pictures: the pages as a browser draws them.

Run: `python benchmarks/screenshots.py [--folder docs]`. Writes a picture of each page, and each `-dark`, of the study of
`$DMCORE_CACHE`, or of `cache/`.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
PICTURES = {
    "overview": "",
    "regression": "regression",
    "scaling": "scaling",
    "tokens": "scaling?view=tokens",
    "parts": "nonlinear?look=parts",
    "features": "nonlinear?look=features",
    "reduction": "reduction",
    "downstream": "downstream",
    "losses": "downstream?cost=tokens",
    "synthetic": "synthetic",
    "controls": "controls",
    "catalogue": "catalogue?release=gemma-scope-9b-pt-res&layer=20",
    "runs": "runs",
    "health": "health",
}
"""Names of the pictures, and where in the app they are taken."""
STILL = """() => !document.querySelector(
  '[data-testid=stApp][data-test-script-state=running], [data-testid=stSkeleton], [data-stale=true]'
)"""
"""Nothing on the page is waited for any more."""


def load_timings() -> Any:
    """`pages.py` beside this file, which starts the app and knows when a page is drawn."""
    spec = importlib.util.spec_from_file_location("pages_benchmark", HERE / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=HERE.parent / "docs", help="where the pictures go (default docs/)"
    )
    folder = parser.parse_args().folder
    folder.mkdir(exist_ok=True)
    pages = load_timings()
    system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    port = pages.free_port()
    server = pages.start_app(port)
    try:
        pages.wait_for_port(port)
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=system, args=pages.ARGS)
            for theme in ("light", "dark"):
                for name, path in PICTURES.items():
                    context = chromium.new_context(viewport={"width": 1440, "height": 1160}, color_scheme=theme)
                    page = context.new_page()
                    page.goto(f"http://127.0.0.1:{port}/{path}")
                    page.wait_for_selector("h1")
                    page.wait_for_function(STILL, timeout=60_000)
                    page.wait_for_timeout(2000)
                    page.screenshot(path=folder / f"{name}{'-dark' if theme == 'dark' else ''}.png")
                    context.close()
            chromium.close()
    finally:
        server.terminate()
        server.wait(10)


if __name__ == "__main__":
    main()
