"""The logs of the app's own process, set up at its first visitor: who asked for what, and what was found damaged."""

from __future__ import annotations

import logging
from functools import lru_cache

from dmcore.errors import DarkMatterError
from dmcore.run import logs
from dmcore.store.store import default_root


@lru_cache(maxsize=1)
def set_up_logs() -> None:
    """Log as `DMCORE_LOG`, `DMCORE_LOG_LEVEL` and `DMCORE_LOG_FILE` say, once a process; not Streamlit's own lines."""
    try:
        settings, wrong = logs.LogSettings.of_environment(), ""
    except DarkMatterError as error:
        settings, wrong = logs.LogSettings(), str(error)
    logs.configure("app", settings, level="info", root=default_root())
    if wrong:
        logging.getLogger(__name__).warning("%s", wrong)
