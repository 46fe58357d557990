"""From what is typed to a composed config; the only place that knows Hydra's insides."""
