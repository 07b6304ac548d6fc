"""Images and captions through a base, and the cache of what was encoded."""
