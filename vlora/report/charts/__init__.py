"""Line charts: one layout, drawn as SVG or as PNG."""
