"""Where else a run's metrics and samples go while it trains: one file for each service."""
