"""The physics simulator: writes interferograms in the layout of the raw archive."""
