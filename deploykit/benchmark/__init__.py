"""Latency that can be believed: devices in, samples, statistics and verdicts out. Needs neither torch nor onnx.

timing.py        calls of a device, each timed alone; percentiles
rounds.py        several sides interleaved, neighbours watched, ratios within a round
machine.py       what stands beside every figure: processor, clocks, GPU, versions
nvml.py          what NVIDIA's management library tells: clocks, power, energy, throttling, other processes
report.py        cases and their samples as a file; what a comparison needs to know
compare.py       two reports: is the difference larger than the noise
tables.py        a report for people: text, Markdown, CSV
plots.py         a report as a picture: the only one that needs matplotlib
"""
