"""Patches on disk: checkpoints read and rewritten shard by shard, patch algebra, exports, the hub."""
