from collections.abc import Iterable
from typing import Any

def get_vars_from_inventory_sources(
    loader: Any, sources: Iterable[str], entities: Iterable[Any], stage: str
) -> dict[str, Any]: ...
