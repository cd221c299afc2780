"""The demo's tokenizer: byte-level BPE learned from the training text, stored the way `AutoTokenizer` reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dmcore.demo.corpus import Corpus
from dmcore.demo.scale import CONTEXT_LENGTH, Scale

BOS, EOS = "<|bos|>", "<|eos|>"
BOS_ID, EOS_ID = 0, 1
"""The special tokens and their ids: BOS opens every context, EOS stands between documents."""


def train_tokenizer(corpus: Corpus, scale: Scale, folder: Path) -> None:
    """Learn the vocabulary from the first `tokenizer_bytes` of the stream and save it into `folder`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=scale.model.vocabulary,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(corpus, scale.tokenizer_bytes), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, BOS_ID)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)


def _sample(corpus: Corpus, size: int) -> Iterator[str]:
    """Texts of the stream, whole files, until `size` characters have been given."""
    given = 0
    for file in corpus.documents():
        yield file.text
        given += len(file.text)
        if given >= size:
            return
