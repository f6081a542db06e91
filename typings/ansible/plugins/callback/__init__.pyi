from typing import Any

from ansible.utils.display import Display

class CallbackBase:
    _display: Display
    def __init__(self) -> None: ...
    def __getattr__(self, name: str) -> Any: ...
