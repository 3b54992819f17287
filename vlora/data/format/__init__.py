"""From a row to a `Sample`: layouts, messages, places of images, tools, boxes. Pure.

`samples.format_sample` is the door: it calls all others. It stays here and not beside `rows`, because ten of its
neighbours are called by it and by one another only. A new layout of rows is a case of `layouts`.
"""
