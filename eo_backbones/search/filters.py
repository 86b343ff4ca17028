"""Which cells of an index may be found: by place, date and cloud share."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from eo_backbones.errors import UserError
from eo_backbones.search.index import IndexedScene, SearchIndex

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_OPEN = ("", "..")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Limits; ``None`` means no limit.

    Attributes:
        bbox: west, south, east and north in degrees; a cell counts if its centre is inside. A box with west > east
            crosses the 180th meridian.
        dates: first and last moment, in UTC; either may be ``None``. Scenes without a date do not count.
        max_cloud: percent; scenes whose cloud share is not known do not count.
    """

    bbox: tuple[float, float, float, float] | None = None
    dates: tuple[datetime | None, datetime | None] | None = None
    max_cloud: float | None = None

    def __post_init__(self) -> None:
        if self.bbox is not None:
            west, south, east, north = self.bbox
            if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90 and west != east):
                raise UserError(
                    f"--bbox {west:g},{south:g},{east:g},{north:g}: pass WEST,SOUTH,EAST,NORTH in degrees, with south "
                    "below north"
                )
        if self.max_cloud is not None and not 0 <= self.max_cloud <= 100:
            raise UserError(f"--max-cloud {self.max_cloud:g} is a percentage; pass 0 to 100")

    def allowed(self, index: SearchIndex) -> np.ndarray | None:
        """Return which cells may be found, bool ``(cells,)``; ``None``: all.

        Raises:
            UserError: none of them; the message says which limit leaves none.
        """
        checks = [check for check in (self._by_place(index), self._by_date(index), self._by_cloud(index)) if check]
        if not checks:
            return None
        left = np.ones(len(index.cells), bool)
        for option, inside, holds in checks:
            if not inside.any():
                raise UserError(f"{option} leaves none of the {len(left):,} cells: {holds}; widen it")
            left &= inside
        if not left.any():
            options = " and ".join(option for option, _, _ in checks)
            raise UserError(f"{options} leave none of the {len(left):,} cells together, each alone some; widen one")
        return left

    def _by_place(self, index: SearchIndex) -> tuple[str, np.ndarray, str] | None:
        if self.bbox is None:
            return None
        west, south, east, north = self.bbox
        lon, lat = index.cells["lon"], index.cells["lat"]
        across = (lon >= west) & (lon <= east) if west < east else (lon >= west) | (lon <= east)
        inside = across & (lat >= south) & (lat <= north)
        if np.isnan(lon).all():
            holds = "they have no coordinates"
        else:
            bounds = [f"{edge(part):.4f}" for edge, part in
                      ((np.nanmin, lon), (np.nanmin, lat), (np.nanmax, lon), (np.nanmax, lat))]  # fmt: skip
            holds = f"they lie within {','.join(bounds)}"
        return "--bbox", inside, holds

    def _by_date(self, index: SearchIndex) -> tuple[str, np.ndarray, str] | None:
        if self.dates is None:
            return None
        first, last = self.dates
        moments = {scene.id: taken_at(scene) for scene in index.scenes}
        known = sorted(moment for moment in moments.values() if moment is not None)

        def inside(scene: IndexedScene) -> bool:
            moment = moments[scene.id]
            return moment is not None and (first is None or moment >= first) and (last is None or moment <= last)

        holds = f"their dates are {known[0]:%Y-%m-%d} to {known[-1]:%Y-%m-%d}" if known else "no scene states its date"
        return "--date", _mask(index, inside), holds

    def _by_cloud(self, index: SearchIndex) -> tuple[str, np.ndarray, str] | None:
        if self.max_cloud is None:
            return None
        limit = self.max_cloud
        known = [scene.cloud_cover for scene in index.scenes if scene.cloud_cover is not None]
        holds = f"the clearest scene has {min(known):g} %" if known else "no scene states its cloud share"
        return "--max-cloud", _mask(index, lambda s: s.cloud_cover is not None and s.cloud_cover <= limit), holds


def parse_dates(text: str) -> tuple[datetime | None, datetime | None]:
    """Return first and last moment of ``START/END``, dates or RFC 3339; either may be ``..``; a date alone is that day.

    Raises:
        UserError: it is something else.
    """
    wrong = UserError(f"--date {text}: pass START/END such as 2022-06-01/2022-08-31, or 2022-06-01/..")
    start, *more = (part.strip() for part in text.split("/"))
    end = more[0] if more else start
    if len(more) > 1 or (start in _OPEN and end in _OPEN):
        raise wrong
    try:
        first = None if start in _OPEN else _moment(start)
        last = None if end in _OPEN else _moment(end)
    except ValueError as error:
        raise wrong from error
    if last is not None and _DAY.fullmatch(end):
        last += timedelta(days=1, microseconds=-1)
    if first is not None and last is not None and first > last:
        raise UserError(f"--date {text} ends before it starts; pass the earlier one first")
    return first, last


def taken_at(scene: IndexedScene) -> datetime | None:
    """Return when the image of a scene was taken; ``None`` where nothing says so, or what says so is no date."""
    try:
        return None if scene.datetime is None else _moment(scene.datetime)
    except ValueError:
        return None


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _mask(index: SearchIndex, inside: Callable[[IndexedScene], bool]) -> np.ndarray:
    mask = np.zeros(len(index.cells), bool)
    for scene in index.scenes:
        mask[scene.first : scene.first + scene.cells] = inside(scene)
    return mask
