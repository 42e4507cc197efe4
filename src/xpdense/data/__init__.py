"""Data: checked arrays and batches (`arrays`); a table's features (`table`), target (`target`) and the values of its
columns (`columns`); known sets and files (`datasets`)."""
