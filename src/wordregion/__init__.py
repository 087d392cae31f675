"""Fine-grained vision-language pre-training on one set of parts. Start with `wordregion --help`."""

__version__ = "0.1.0"
