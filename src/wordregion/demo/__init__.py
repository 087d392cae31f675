"""The demo: train a small ALBEF on built-in scenes, evaluate it, write a report that explains what it learnt."""

from wordregion.demo.run import DemoFlags, run_demo

__all__ = ["DemoFlags", "run_demo"]
