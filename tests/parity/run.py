"""Runs on one backend what the parity tests compare, in one process: run.py record|replay DATA FOLDER CASE…"""

import sys

import fast
import report_b
import sam_resnet20

if __name__ == "__main__":
    task, data, folder, *cases = sys.argv[1:]
    report_b.main(task, data, folder)
    fast.main(task, data, folder)
    sam_resnet20.main(task, data, folder, *cases)
