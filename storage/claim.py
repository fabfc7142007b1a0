"""Who may write a folder of the commit protocol, wherever the folder is."""

from jobs.errors import RaysmithError, UserError
from storage.manifest import OWNER_FILE, Owner


class StaleAttempt(RaysmithError):
    """A later attempt has taken the folder over; this one must stop writing."""


class ForeignFolder(UserError):
    """The folder holds files that this stage of this run did not write. They are untouched."""


def foreign(place: object, why: str) -> ForeignFolder:
    """The error for a folder that is not ours."""
    return ForeignFolder(
        f"{place} is not ours to write: {why}; nothing in it was touched",
        remedy="move it away, or choose another storage root or run",
    )


def check_may_take(place: object, current: Owner, owner: Owner) -> None:
    """Raises StaleAttempt or ForeignFolder where `owner` must leave a folder of `current` alone."""
    if not current.same_stage(owner):
        raise foreign(place, f"it belongs to {current}")
    if current.attempt > owner.attempt:
        raise StaleAttempt(
            f"{owner} may not write {place}: {current} owns it",
            remedy="let the later attempt go on; end this one",
        )


def check_is_owner(place: object, current: Owner | None, owner: Owner) -> None:
    """Raises StaleAttempt or ForeignFolder unless `owner` is who began the folder."""
    if current is None:
        raise foreign(place, f"it has no readable {OWNER_FILE}, so no begin() came before")
    check_may_take(place, current, owner)
    if current != owner:
        raise foreign(place, f"it was begun by {current}, not by {owner}")
