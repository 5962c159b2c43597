"""Progress bars, image grids, plots, GIFs and the HTML report."""
