"""Run folders: what is in them, checkpoints and resume, figures."""
