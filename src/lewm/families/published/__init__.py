"""The published LeWM (arXiv 2603.19312), and its released checkpoints."""
