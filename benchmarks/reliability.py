"""Is anything lost, doubled or left behind when parts of zsq are killed?"""

from __future__ import annotations

import argparse

from faults import claims, kill_matrix, work
from faults.callers import Caller
from faults.cluster import Cluster, Shape


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hits", type=int, default=1)
    parser.add_argument("--phase")
    parser.add_argument("--target")
    a = parser.parse_args()
    with Cluster(Shape()) as cluster, Caller(cluster.urls) as caller:
        inputs = work.Inputs.upload(caller, cluster.folder / "inputs")
        cells = [
            c
            for c in kill_matrix.CELLS
            if (not a.target or c[0] == a.target) and (not a.phase or c[1] == a.phase)
        ]
        kill_matrix.Matrix(cluster, caller, inputs).run(cells, a.hits)
        print(claims.blobs_are_named(cluster.records, 5))


if __name__ == "__main__":
    main()
