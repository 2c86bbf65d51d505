"""Functions for executors: another process must be able to import them."""

import os
import signal
import time


def square(number):
    time.sleep(0.02 * (number % 3))  # so that later items are done earlier
    return number * number, os.getpid()


def fail_at_three(number):
    if number == 3:
        raise ValueError(f"{number} is wrong")
    return number


def die_at_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def rest(seconds):
    time.sleep(seconds)
