"""From a row to a `Sample`: layouts, messages, places of images, tools, boxes. Pure."""
