"""What `ps`, `why` and `kill` share: foreign text made harmless, lines, columns, JSON. On top: I/O.

`_text`, `_lines`, `_table` and `_json` are pure; `_pick` finds the locks that are meant, `_open`
connects, `_watch` looks again and again.
"""
