"""Where rows come from: files, folders, saved data sets, the hub. What is read is what is written."""
