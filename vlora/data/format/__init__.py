"""From a row to a `Sample`: layouts, messages, places of images, tools, boxes. Pure.

`samples.format_sample` is the door: it calls all others. A new layout of rows is a case of `layouts`.
"""
