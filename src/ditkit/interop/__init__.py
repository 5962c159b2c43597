"""Weights of other projects in, ditkit's out: safetensors, diffusers, ONNX, the hub.

In: `detect.read_foreign` finds out which project a file is from; that project's `read` (`original`, `meta`,
`diffusers`) renames and folds its tensors (`remap`) and gives a `ForeignModel`, which `import_model` writes as a run.
Out: `export` and `push`, by `diffusers.write` and `onnx.write`.
"""
