"""BEiT-3: one multiway encoder for pictures and texts, the native home of MultiWay-Adapter."""
