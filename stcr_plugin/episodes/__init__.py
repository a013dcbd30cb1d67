"""Any source of demonstrations -> Episode. The kinds of source are listed in source_table.py."""

from stcr_plugin.episodes.source_table import SourceConfig, open_source

__all__ = ["SourceConfig", "open_source"]
