"""`sclip bench`: what is claimed to be fast, timed beside other ways to do the same on this machine.

results/bench.json  every time, ratio and floor
results/bench.svg   the ratios, drawn
"""
