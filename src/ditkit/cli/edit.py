"""Change an image with a trained model: paint a part of it anew, or draw it again."""

from __future__ import annotations

COMMANDS = {"inpaint": "edit_inpaint", "img2img": "edit_img2img"}
EXAMPLES = (
    "Examples:\n\nditkit edit inpaint face.png --mask mask.png --labels female\n"
    "ditkit edit img2img three.png --labels 8 --strength 0.7"
)
