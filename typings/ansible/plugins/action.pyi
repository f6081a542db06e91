from typing import Any

class ActionBase:
    _task: Any
    _templar: Any
    _connection: Any
    def run(self, tmp: str | None = ..., task_vars: dict[str, Any] | None = ...) -> dict[str, Any]: ...
    def _execute_module(
        self, module_name: str, module_args: dict[str, Any], task_vars: dict[str, Any] | None
    ) -> dict[str, Any]: ...
    def _low_level_execute_command(self, cmd: str, executable: str | None = ...) -> dict[str, Any]: ...
