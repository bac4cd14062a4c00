"""Real data: annotations, captions, phase, archive, splits, datasets and transforms."""
