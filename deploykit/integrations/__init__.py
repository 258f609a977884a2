"""Where deploykit hands over: a fleet (`triton`), and what a bundle becomes for it.

In: values that `cli/` has read out of a bundle. Out: files. Nothing here opens a graph, a plan or a session.
"""
