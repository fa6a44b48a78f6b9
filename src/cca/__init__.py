"""cca: raise one skill of an open-weight language model by editing a sliver of its weights."""
