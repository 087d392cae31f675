"""Processes: who am I, gather, reduce, and the ways to parallelise a task."""
