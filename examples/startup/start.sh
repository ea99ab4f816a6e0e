# What every container runs; $CONTAINER is its name.
set -e
advlock once -q -w 10m schema-v1 -- python schema.py
exec python serve.py
