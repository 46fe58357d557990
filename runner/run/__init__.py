"""One run in its folder, from settings to result; knows neither sweeps nor Hydra."""
