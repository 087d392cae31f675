"""Fine-grained vision-language pre-training on one set of parts. Start with `wordregion --help`."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_model", "load_official", "save_model"]

if TYPE_CHECKING:
    from wordregion.models.official import load_official
    from wordregion.models.store import load_model, save_model


def __getattr__(name: str) -> Any:
    """Imports what is asked for: the command line's help need not wait for torch."""
    if name == "load_official":
        from wordregion.models.official import load_official

        return load_official
    if name in ("load_model", "save_model"):
        from wordregion.models import store

        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
