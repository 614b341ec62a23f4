"""Small tools that are about no subject of their own: strict JSON, atomic files, statistics."""
