"""Evaluation of trained models by the field's protocols."""
