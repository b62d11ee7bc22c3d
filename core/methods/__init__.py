"""Quantization methods: each one file, over the same words (teacher, student, synthesize, calibrate)."""
