"""Whether a study's model predicts tokens at all: known from its folder, where the study's file is known here."""

from __future__ import annotations

import streamlit as st

from dmcore.errors import DarkMatterError
from dmcore.run.jobs.queue import Queue
from dmcore.sources.model_files import model_kind, read_model_config
from dmcore.specs import load_study
from dmcore.ui.look_job import file_of


@st.cache_resource(max_entries=16, ttl=300, show_spinner=False)
def is_encoder(study_id: str, site: str) -> bool:
    """Whether the model of a study is known to be an encoder; False where that cannot be told without the network."""
    if not site.startswith("blocks."):
        return False  # an encoder-decoder
    try:
        queue = Queue()
        path = file_of(study_id, queue, queue.jobs())
        study = load_study(path) if path is not None else None
        if study is None or study.model.id:  # an id might be asked for on the hub
            return False
        config = read_model_config(study)
        return config is not None and model_kind(config) == "encoder"
    except DarkMatterError:
        return False
