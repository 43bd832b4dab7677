"""`sclip bench`: time the fast parts of the project against alternatives on this machine.

results/bench.json contains all times, ratios and floors.
"""
