"""Images and captions through a base (`encoder`), what tells bases apart (`fingerprint`), and the cache of embeddings.

Where images and captions come from is `labclip.data`'s.
"""
