"""Stage one: video files in, feature shards out. The only place where pixels exist."""
