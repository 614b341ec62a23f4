"""Small tools that every part of the library may use: strict JSON, atomic files, statistics."""
