#!/bin/sh
# Finds the Python that this kit was made for: sh start.sh [--folder FOLDER] [--prepare] [options of JupyterLab]
here=$(cd "$(dirname "$0")" && pwd)
read -r version < "$here/python-version"
for python in "${PYTHON:-python$version}" python3 python; do
    if command -v "$python" > /dev/null; then
        exec "$python" "$here/start.py" "$@"
    fi
done
echo "This kit needs Python $version, and there is no Python here." >&2
exit 1
