"""`[data]`: from rows of files to batches.

A reader needs `rows`, `format.samples`, `masking`, `collate`, `sampler` and `loader`; they call the others. The folder
has more than twelve files because each is one step of a row's way, and no two share helpers. `readers`, `splits` and
`opening` find rows. `values` and `format` read them. `masking`, `skeletons` and `truncate` decide what is learned.
`sampler`, `packing` and `collate` make batches. `prefetch`, `examples`, `loader` and `batch_source` deliver them.
"""
