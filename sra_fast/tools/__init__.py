"""Small tools without a subject of their own: strict JSON, atomic files, statistics."""
