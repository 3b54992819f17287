"""Programs that gather the numbers of many runs, each an optional package."""
