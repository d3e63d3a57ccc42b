"""What a build does beside packing: the README's links lead to the repository, for an index shows it elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

__all__ = ["ReadmeHook", "absolute"]

LINK = re.compile(r"(!?)(\[[^\]]*\]\()([\w./-]+)")


def absolute(text: str, root: Path, source: str | None) -> str:
    """The text with its links to files of `root` leading to `source`; as it is while that has no address."""
    if source is None:
        return text

    def lead(link: re.Match[str]) -> str:
        there = f"{source}/{'raw' if link[1] else 'blob'}/HEAD/" if (root / link[3]).exists() else ""
        return f"{link[1]}{link[2]}{there}{link[3]}"

    return LINK.sub(lead, text)


class ReadmeHook(MetadataHookInterface):
    """Reads the address from `project.urls`, which pyproject.toml has once there is one."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Puts the README into the metadata."""
        root = Path(self.root)
        text = absolute((root / "README.md").read_text(encoding="utf-8"), root, metadata.get("urls", {}).get("Source"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
