"""What differs between model families: one file per lineage, with its families' records and corrections.

A file that has `FAMILIES` adds them to the registry. `family` has the records. What several lineages share is in
`encoder_decoders`, `expanding`, `pieces`, `siglip` and `tiles`.
"""
