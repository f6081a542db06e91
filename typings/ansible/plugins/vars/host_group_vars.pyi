from typing import Any

class VarsModule:
    def get_vars(self, loader: Any, path: str, entities: Any, cache: bool = ...) -> dict[str, Any]: ...
