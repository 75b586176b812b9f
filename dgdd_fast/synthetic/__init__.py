"""Our images: how they begin, move, are kept and are looked at."""
