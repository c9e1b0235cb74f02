"""C++ twins of the numpy references (built by setup.py)."""
