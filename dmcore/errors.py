"""The errors that dmcore raises on purpose: one sentence each, which names the remedy."""


class DarkMatterError(ValueError):
    """Something the user can mend; the message says what is wrong and what to do, in one line.

    Pages and the command line show the message alone, so it must make sense without a traceback.
    """


class SpecError(DarkMatterError):
    """A study, site, SAE or text specification is wrong: an unknown key, hook, folder or value."""


class DataError(DarkMatterError):
    """Tensors cannot be decomposed: their shapes, values or grouping make the question ill-posed."""


class StoreError(DarkMatterError):
    """A cache entry is missing, damaged, or cannot be written."""


class Cancelled(Exception):  # noqa: N818 - it is a request that was granted, not an error
    """Raised inside long work when the user has asked it to stop."""
