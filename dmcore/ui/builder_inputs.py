"""The study builder's model, texts and settings: widgets that make the frozen specs of a study, or say what is missing."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import streamlit as st

from dmcore.errors import DarkMatterError
from dmcore.specs import DTYPES, ModelSpec, Settings, TextsSpec
from dmcore.ui import reads
from dmcore.ui.builder_saes import filter_like_chosen, processing_of, taken_over
from dmcore.words.names import plain

CATALOGUE, HUB, FOLDER = "From the catalogue", "By Hugging Face id", "A folder on this machine"
DATASET, FILES, TOKENS = "A Hugging Face data set", "Files on this machine", "A folder of tokens"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
MODEL = "builder.model"
KEEP = {"persist_state": "session"}
"""Every widget of the builder keeps its value while another tab or page is shown."""
DEFAULT_DATASET, DEFAULT_DOMAIN = "monology/pile-uncopyrighted", "meta.pile_set_name"


def draw_model() -> ModelSpec | None:
    """The model; None while it is not said."""
    handed = taken_over()
    if handed:
        for key, value in (("builder.model-source", CATALOGUE), ("builder.sae-source", CATALOGUE), (MODEL, handed)):
            st.session_state[key] = value
        filter_like_chosen(handed)
    source = st.segmented_control(
        "Where the model is",
        [CATALOGUE, HUB, FOLDER],
        default=CATALOGUE,
        required=True,
        key="builder.model-source",
        label_visibility="collapsed",
        **KEEP,
    )
    left, right = st.columns([3, 1])
    dtype_default = "float32" if source == FOLDER else "bfloat16"
    with left:
        path = identity = ""
        if source == CATALOGUE:
            identity = _catalogue_model()
        elif source == HUB:
            identity = _hub_id("Hugging Face id of the model", "builder.model-id", "google/gemma-2-2b")
        else:
            path = _folder("Folder of the model", "builder.model-folder", needs="config.json")
    dtype = right.selectbox(
        "Number format", DTYPES, index=DTYPES.index(dtype_default), key=f"builder.dtype.{dtype_default}",
        help="In which the model computes and its activations are kept. bfloat16 halves memory and disk.", **KEEP,
    )  # fmt: skip
    if not (path or identity):
        return None
    if identity:
        _token_note()
    return ModelSpec(path=path, id=identity, dtype=dtype, processing=processing_of(identity))


def _catalogue_model() -> str:
    try:
        frame = reads.catalogue().filter(pl.col("hook").is_not_null())
    except DarkMatterError as error:
        st.info(plain(str(error)), icon=":material/inbox:")
        return ""
    counts = dict(frame.group_by("model").len().sort("model").iter_rows())
    models = list(counts)
    if st.session_state.get(MODEL) not in counts:
        st.session_state.pop(MODEL, None)
    chosen = st.selectbox(
        "Model of the catalogue", models, index=None, key=MODEL,
        format_func=lambda model: f"{model} ({counts[model]:,} SAEs)", placeholder="Choose a model", **KEEP,
    )  # fmt: skip
    return chosen or ""


def _hub_id(label: str, key: str, placeholder: str, value: str = "") -> str:
    typed = st.text_input(label, value, key=key, placeholder=placeholder, **KEEP).strip()
    if typed and not HUB_ID.fullmatch(typed):
        st.error("That is not a Hugging Face id: write owner/name.", icon=":material/error:")
        return ""
    return typed


def _folder(label: str, key: str, *, needs: str) -> str:
    typed = st.text_input(label, key=key, placeholder="/data/...", **KEEP).strip()
    if not typed:
        return ""
    path = Path(typed).expanduser()
    if not path.is_absolute() or not path.exists():
        st.error("There is nothing there: give the whole path.", icon=":material/folder_off:")
        return ""
    if needs and not (path / needs).is_file():
        st.error(f"There is no {needs} in it: give the folder that holds it.", icon=":material/folder_off:")
        return ""
    return str(path)


def _token_note() -> None:
    """Whether a token for gated models is there; never the token."""
    import os

    named = any(os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"))
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    if named or (home / "token").is_file():
        st.caption(":material/key: Your Hugging Face token will be used for gated models.")
    else:
        st.caption(
            ":material/key_off: No Hugging Face token was found. Gated models such as Gemma need one: run `hf auth login`, or "
            "start the app with HF\\_TOKEN set."
        )


def draw_texts() -> TextsSpec | None:
    """The texts; None while they are not said."""
    source = st.segmented_control(
        "Where the texts are",
        [DATASET, FILES, TOKENS],
        default=DATASET,
        required=True,
        key="builder.texts-source",
        label_visibility="collapsed",
        **KEEP,
    )
    if source == TOKENS:
        path = _folder("Folder with tokens.npy and contexts.json", "builder.tokens", needs="tokens.npy")
        return TextsSpec(path=path) if path else None
    left, right = st.columns([3, 2])
    where: dict[str, str] = {}
    with left:
        if source == DATASET:
            where["dataset"] = _hub_id("Data set", "builder.dataset", DEFAULT_DATASET, DEFAULT_DATASET)
        else:
            where["files"] = _folder("A .txt, .jsonl or .parquet file, or a folder of them", "builder.files", needs="")
    numbers = right.columns(2)
    n_contexts = numbers[0].number_input("Contexts", 1, 10_000_000, 300, key="builder.n-contexts", **KEEP)
    length = numbers[1].number_input("Tokens in each", 2, 1_000_000, 1024, key="builder.length", **KEEP)
    with st.expander("More about the texts", key="builder.texts-more"):
        columns = st.columns(4)
        where["column"] = (
            columns[0].text_input("Column with the text", "text", key="builder.column", **KEEP).strip() or "text"
        )
        is_default = where.get("dataset") == DEFAULT_DATASET
        where["domain"] = columns[1].text_input(
            "Column with the domain", DEFAULT_DOMAIN if is_default else "", key=f"builder.domain.{is_default}", **KEEP
        ).strip()  # fmt: skip
        where["split"] = columns[2].text_input("Split", "train", key="builder.split", **KEEP).strip() or "train"
        where["config"] = columns[3].text_input("Configuration", key="builder.config", **KEEP).strip()
        pack = st.checkbox(
            "Put short documents one after the other, instead of skipping them", key="builder.pack", **KEEP
        )
        bos = st.checkbox(
            "Begin each context with a BOS token, also where the tokenizer would not", key="builder.bos", **KEEP,
            help="Off, a context begins as the tokenizer begins a text: with a BOS for Gemma and Llama, without for GPT-2, whose "
            "SAEs mostly were trained with one.",
        )  # fmt: skip
    if not (where.get("dataset") or where.get("files")):
        return None
    if source == FILES:
        where.pop("split")
        where.pop("config")
    return TextsSpec(
        **where, n_contexts=int(n_contexts), context_length=int(length), short_documents="pack" if pack else "skip",
        bos="always" if bos else "tokenizer",
    )  # fmt: skip


def draw_settings() -> tuple[Settings, int]:
    """How the error is split, and the seed."""
    default = Settings()
    with st.expander("Settings", icon=":material/tune:", key="builder.settings"):
        columns = st.columns(5, vertical_alignment="bottom")
        skip = columns[0].number_input(
            "First positions left out", 0, 100_000, default.skip_positions, key="builder.skip", **KEEP,
            help="Position 0 is an attention sink: its activation is far from all others.",
        )  # fmt: skip
        folds = columns[1].number_input("Folds of contexts", 2, 50, default.n_folds, key="builder.folds", **KEEP)
        ridge = columns[2].number_input(
            "Ridge penalty", 0.0, None, default.ridge, key="builder.ridge", format="%g", **KEEP,
            help="On the squared weights of the linear map, as scikit-learn's alpha.",
        )  # fmt: skip
        seed = columns[3].number_input("Seed", 0, 2**31 - 1, 0, key="builder.seed", **KEEP)
        bias = columns[4].checkbox("The linear map has a bias", default.fit_bias, key="builder.bias", **KEEP)
    return Settings(int(skip), int(folds), float(ridge), bool(bias)), int(seed)
