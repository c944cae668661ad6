"""snowgreen's tests: one module per module, and real processes under ``system/``."""
