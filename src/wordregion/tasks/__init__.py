"""What is trained: model, teacher, queue and objectives, behind one protocol."""
