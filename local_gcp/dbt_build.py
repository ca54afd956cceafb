"""Builds silver and gold in a dbt that has read its project before bronze had a row.

    python -m local_gcp.dbt_build FILE [FLAG ...]     builds once there is a FILE

To start dbt and read the project takes as long as to build it here, and asks BigQuery nothing: it
is done while the servers start, and the page on tables and their lineage is written as well. The
flags are for each of dbt's commands.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from dbt.cli.main import dbtRunner
from dbt.contracts.graph.manifest import Manifest

# bqemulator cannot tell the catalog; columns and lineage come from the project itself
DOCS = ("docs", "generate", "--static", "--empty-catalog", "--no-compile")
# bqemulator answers one at a time; meanwhile dbt prepares another
BUILD = ("build", "--threads", "2", "--exclude-resource-type", "unit_test")
LOOK_SECONDS = 0.05


def main() -> int:
    """Run dbt's commands in the folders that DBT_TARGET_PATH and DBT_LOG_PATH name."""
    go, *flags = sys.argv[1:]
    read = dbtRunner().invoke(["parse", *flags])
    if not isinstance(read.result, Manifest):
        return 1
    dbt = dbtRunner(manifest=read.result)
    if not dbt.invoke([*DOCS, *flags]).success:
        return 1
    while not Path(go).exists():
        time.sleep(LOOK_SECONDS)
    return 0 if dbt.invoke([*BUILD, *flags]).success else 1


if __name__ == "__main__":
    sys.exit(main())
