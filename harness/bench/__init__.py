"""Speed, shown side by side: each fast path against the formula written naively, and against what the hardware allows.

Every case is first checked against the slow way; where the two disagree, no speed is reported.
"""
