"""Text: its sources, tokenization, windows, and the proof that calibration never sees the test."""
