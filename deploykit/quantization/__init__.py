"""INT8 with provenance: which tensors are quantized, with which scales, what it costs, and which layers stay out. Needs no torch.

A calibration streams pictures through a graph and keeps histograms; a method turns them into scales; the placement says where Q/DQ
pairs stand, and the quantized graph holds them. Whoever runs graphs is given by the caller: no stage imports another.
"""
