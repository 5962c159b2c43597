"""Image grids, plots, GIFs and the HTML report."""
