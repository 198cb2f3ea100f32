"""What a run leaves behind: the run record, and its mirror in Weights & Biases."""
