#!/usr/bin/env bash
# The same table written with DataFrame.to_parquet by pandas 2 and by pandas 3.
# Guess, as our code had relied on it until it failed (so no blind one): Parquet has one kind of text, so the two files have
# one schema, and pyarrow joins them.
# Found (pandas 2.2.2 and 3.1.1, pyarrow 22.0.0): both hold UTF8, but pandas 3's text comes back as `large_string` (the
# file carries Arrow's schema along), so that pyarrow.concat_tables refuses the two, with promote_options="default" too;
# "permissive" and pandas.read_parquet on their folder join them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/tables"
for version in 2.2.2 3.1.1; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install -q --disable-pip-version-check pandas==$version pyarrow==22.0.0 numpy==2.2.6 \
        || { echo "cannot install"; exit 2; }
    "$folder/$version/bin/python" -c "
import sys, pandas
pandas.DataFrame({'name': ['a', 'b'], 'value': [1.0, 2.0]}).to_parquet(sys.argv[1], index=False)
" "$folder/tables/$version.parquet"
done
"$folder/3.1.1/bin/python" - "$folder/tables" <<'PY'
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

tables = [pq.read_table(f"{sys.argv[1]}/{version}.parquet") for version in ("2.2.2", "3.1.1")]
refused = 0
for how in ("none", "default"):
    try:
        pa.concat_tables(tables, promote_options=how)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        print(f"{how}: {str(error).splitlines()[0]}")
        refused += 1
types = [str(table.schema.field("name").type) for table in tables]
joined = pa.concat_tables(tables, promote_options="permissive").num_rows, len(pd.read_parquet(sys.argv[1]))
print(f"pandas 2.2.2 and 3.1.1: {types}; refused by {refused} of 2; rows joined otherwise: {joined}")
sys.exit(0 if (types, refused, joined) == (["string", "large_string"], 2, (4, 4)) else 1)
PY
