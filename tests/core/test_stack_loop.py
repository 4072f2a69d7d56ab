"""A loop that is watched from another thread while it works."""

import subprocess
import sys

SCRIPT = """
import gc, sys, threading, time
from ml_energy_callbacks.frameworks.stack_loop import StackLoop

class Held:
    def __init__(self):
        self.itself = self  # for the collector alone

    def __del__(self):
        for _ in range(20):
            pass

def work(depth):
    held = [Held() for _ in range(10)]
    if depth:
        return work(depth - 1)
    return sum(1 for _ in range(3))

def fit():
    loops.append(StackLoop(sys._getframe()))
    while not ended:
        work(60)

loops, ended = [], []
gc.set_threshold(1)
sys.setswitchinterval(1e-6)
thread = threading.Thread(target=fit, daemon=True)
thread.start()
while not loops:
    time.sleep(0.01)
end = time.time() + float(sys.argv[1])
while time.time() < end:
    assert loops[0].running()
ended.append(True)
thread.join()
assert not loops[0].running()
assert gc.isenabled()
"""


def test_looking_at_a_busy_thread_breaks_nothing(*, full: bool) -> None:
    # On Python 3.11 a collection in the middle of the look was a crash of the interpreter, in most runs of four seconds.
    command = [sys.executable, "-c", SCRIPT, "4" if full else "1.5"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
