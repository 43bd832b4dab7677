"""`sclip bench`: time the fast parts of the project against alternatives on this machine.

results/bench.json  all times, ratios and floors
results/bench.svg   the ratios as bars
"""
