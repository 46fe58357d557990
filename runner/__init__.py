"""The application: config, data, models, the training loop, logs, checkpoints, reports."""
