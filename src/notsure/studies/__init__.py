"""Studies: declared experiments, their steps, and the results that are never made twice."""
