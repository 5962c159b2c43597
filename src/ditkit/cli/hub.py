"""Publish a model on the Hugging Face hub, with all that one wants to know of it, and fetch those of others."""

from __future__ import annotations

COMMANDS = {
    "push": "hub_push",
    "pull": "hub_pull",
}
EXAMPLES = (
    "Examples:\n\nditkit hub push mnist me/digits\nditkit hub pull someone/digits --as digits\n"
    "ditkit sample --model hf://someone/digits"
)
