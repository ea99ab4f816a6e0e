"""`advlock top`, full screen: `_feed` asks, `_view` orders, `_columns` lays out, the rest shows."""
