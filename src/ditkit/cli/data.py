"""Look at images before training on them, and at what ditkit keeps of them on disk."""

from __future__ import annotations

COMMANDS = {
    "show": "data_show",
    "reconstruct": "data_reconstruct",
    "list": "data_list",
    "remove": "data_remove",
}
EXAMPLES = "Examples:\n\nditkit data show ./photos\nditkit data list\nditkit data remove --unfinished"
