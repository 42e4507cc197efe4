"""Data: checked arrays and batches (`arrays`), tables with their preprocessing (`table`), known sets (`datasets`)."""
