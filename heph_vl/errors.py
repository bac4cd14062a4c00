"""The one error that users see: what is wrong, where, and what to do, in one line."""


class HephError(Exception):
    """A problem with the user's input or environment, told in one line without a traceback.

    Readers raise it when they are strict; otherwise they keep it in a list of problems, so that
    what was left out is counted and listed.

    Args:
        where: File, record and field, e.g. ``"850.json: intensity_level"``.
        what: What is wrong, with the offending value.
        fix: What the user can do about it.
    """

    def __init__(self, where: str, what: str, fix: str) -> None:
        self.where = _one_line(where)
        self.what = _one_line(what)
        self.fix = _one_line(fix)
        super().__init__(f"{self.where}: {self.what}; {self.fix}")

    def __reduce__(self) -> tuple[type["HephError"], tuple[str, str, str]]:
        return type(self), (self.where, self.what, self.fix)


def _one_line(text: str, limit: int = 300) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
