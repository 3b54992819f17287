"""From a row to a `Sample`: layouts, messages, places of images, tools, boxes. Pure.

`samples.format_sample` is the entry point and calls all others. A new layout of rows is an entry of `layouts.LAYOUTS`.
"""
