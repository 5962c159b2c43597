"""How images are drawn: one file a sampler, each defining `scheduler(process)` over diffusers' schedulers."""
