"""What a run leaves behind for people to read: tables, one HTML page, Weights & Biases."""
