"""One thread for every test, and for the scripts and ranks that it starts.

Two threads round a sum differently from one, and some tests compare the files of one rank and of two byte for byte.
torchrun gives each rank one thread only while OMP_NUM_THREADS is not set.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # torch and numpy read it when they are imported, which is later
