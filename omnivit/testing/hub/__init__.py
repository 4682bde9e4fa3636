"""A folder of small random models under the hub ids of large ones, in their real file formats (see OMNIVIT_HUB)."""

from omnivit.testing.hub.published import PUBLISHED, Published
from omnivit.testing.hub.write import write_hub

__all__ = ["PUBLISHED", "Published", "write_hub"]
