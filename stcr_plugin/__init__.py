"""STCR: train a vision-language model to judge task progress by looking, whatever the order of the frames."""

__version__ = "0.1.0"
