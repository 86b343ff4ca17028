"""STAC items from a file or an address: an item, a collection of items, or a static catalogue with all below it.

JSON is read from disk or over http(s), with nothing but the standard library: what a scene needs of an item are its
assets and a few properties, and a catalogue here is only walked. pystac would make objects of every link, upgrade
items to its own version of STAC, and end at the first damaged one.
"""

import gzip
import http.client
import json
import logging
import re
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit
from urllib.request import HTTPBasicAuthHandler, HTTPPasswordMgrWithDefaultRealm, Request, build_opener, url2pathname

from eo_backbones.errors import UserError, without_secrets
from eo_backbones.files import write_problem

logger = logging.getLogger(__name__)

_TIMEOUT_S = 30.0
_MOST_BYTES = 512 << 20  # a search result of 10,000 items has some 200 MB
_PAUSES_S = (0.5, 2.0)  # before a second and a third try
_MOMENTARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_DEEPEST = 100  # catalogues inside each other
_AT_ONCE = 8  # items of a catalogue that are asked for together
_IN_ADDRESS = "/%?&=#:+,;@~!$'()*[]"  # characters that stay as they are in an address
_HEADERS = {
    "User-Agent": f"eo-backbones/{version('eo-backbones')}",
    "Accept": "application/geo+json, application/json;q=0.9, */*;q=0.5",
}


@dataclass(frozen=True, slots=True)
class FoundItem:
    """An item, or the place of one that cannot be read.

    Attributes:
        address: of the file that it is in, a local path or http(s); relative addresses in it start there.
        shown: what to call it in messages.
        item: its JSON object, with objects ``properties`` and ``assets``; empty where ``problem`` says why.
        problem: why it cannot be read.
    """

    address: str
    shown: str
    item: Mapping[str, Any]
    problem: str | None = None

    @property
    def name(self) -> str:
        """Its id, else the name of its file."""
        identifier = self.item.get("id")
        if isinstance(identifier, str | int) and str(identifier).strip():
            return str(identifier).strip()
        return PurePosixPath(unquote(urlsplit(self.address.replace("\\", "/")).path)).stem or "item"

    @property
    def own_address(self) -> str:
        """Where the item itself is: its ``self`` link if that is complete, else the file that it was read from."""
        for link in _links(self.item):
            if link.get("rel") == "self" and "://" in link["href"]:
                return str(link["href"])
        return self.address

    def resolve(self, href: str) -> str:
        """Return the address or the local path that an ``href`` of the item means."""
        own = self.own_address
        if not is_web(self.address):
            place = resolve(href, self.address)
            return resolve(href, own) if is_web(own) and not is_web(place) and not _exists(place) else place
        return resolve(href, own if is_web(own) else self.address)


def is_web(address: str) -> bool:
    """Return whether an address is read over http or https."""
    return address.lower().startswith(("http://", "https://"))


def resolve(href: str, base: str) -> str:
    """Return the complete address or the local path that an ``href`` means.

    Args:
        href: complete or relative, with or without percent signs for special characters.
        base: address of the file that it stands in, a local path or http(s).
    """
    href = href.strip()
    if href.lower().startswith("file:"):
        return url2pathname(urlsplit(href).path)
    if "://" in href or href.startswith("/vsi") or re.match(r"[A-Za-z]:[\\/]", href):
        return quote(href, safe=_IN_ADDRESS) if is_web(href) else href
    if is_web(base):
        return urljoin(base, quote(href.replace("\\", "/"), safe=_IN_ADDRESS))
    folder = Path(base).parent
    plain = unquote(href)
    candidates = [folder / name for name in (href, plain, plain.replace("\\", "/"), urlsplit(plain).path)]
    return str(next((place for place in candidates if _exists(place)), candidates[2]))


def _exists(place: Path | str) -> bool:
    try:
        return Path(place).exists()
    except OSError:  # a name that is too long
        return False


def read_items(address: str) -> list[FoundItem]:
    """Return the items of a STAC file, in the order of its links; each file is read once, also where links form a loop.

    Args:
        address: a local path or http(s): an item, a feature collection or a list of items, items one in a line
            (``.ndjson``), or a catalogue or collection whose links lead to files (no API).

    Raises:
        UserError: it cannot be read, is no STAC, or has no items. An item or catalogue below it that cannot be read is
            returned with its problem instead.
    """
    address, content = _load(quote(address, safe=_IN_ADDRESS) if is_web(address) else address)
    found = list(_items_in(address, content, frozenset({_identity(address)}), {_identity(address)}))
    shown = without_secrets(address)
    if not found:
        raise UserError(f"{shown} has no items; {_no_items(content)}")
    if len(found) == 1 and found[0].problem is not None and found[0].address == address:
        raise UserError(found[0].problem)
    if isinstance(content, dict) and any(link.get("rel") == "next" for link in _links(content)):
        logger.warning("%s is one page of more: its %d items are used, those of later pages not", shown, len(found))
    return found


def is_stac_text(beginning: bytes) -> bool:
    """Return whether a file or an answer can be JSON, by its first bytes."""
    return beginning.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in {b"{", b"["} or beginning.startswith(b"\x1f\x8b")


def fetch_beginning(address: str) -> bytes:
    """Return the first bytes of what is at a web address.

    Raises:
        UserError: it cannot be read.
    """
    return _fetch(address, most=1024)[1]


def _no_items(content: Any) -> str:
    if isinstance(content, dict) and any(link["rel"] in {"items", "search", "data"} for link in _links(content)):
        return "it belongs to a STAC API: search it (pystac-client), save the result as JSON and pass that"
    return "pass a STAC item, a collection of items, or a catalogue with links to items"


def _items_in(address: str, content: Any, above: frozenset[str], seen: set[str]) -> Iterator[FoundItem]:
    """Yield the items of a file that was read, and of all that it links to."""
    shown = without_secrets(address)
    if isinstance(content, list) or (isinstance(content, dict) and content.get("type") == "FeatureCollection"):
        features = content if isinstance(content, list) else content.get("features")
        if not isinstance(features, list):
            yield FoundItem(address, shown, {}, f"{shown} is a FeatureCollection without a list of features")
            return
        found = [_item(address, f"{shown}#{number}", feature) for number, feature in enumerate(features)]
        if found and all(item.problem is not None and not item.item for item in found):
            yield FoundItem(address, shown, {}, f"{shown} holds no STAC items: {_after_colon(found[0].problem)}")
            return
        yield from found
    elif _is_catalogue(content) and len(above) > _DEEPEST:
        yield FoundItem(address, shown, {}, f"{shown}: more than {_DEEPEST} catalogues inside each other")
    elif _is_catalogue(content):
        yield from _below(address, content, above, seen)
    else:
        yield _item(address, shown, content)


def _after_colon(problem: str | None) -> str:
    return (problem or "").partition(": ")[2]


def _is_catalogue(content: Any) -> bool:
    """Return whether an object is a catalogue or a collection; those of STAC 0.9 and before do not say it."""
    if not isinstance(content, dict):
        return False
    kind = content.get("type")
    return kind in {"Catalog", "Collection"} or (kind is None and "stac_version" in content and "links" in content)


def _item(address: str, shown: str, content: Any) -> FoundItem:
    """Return what should be an item, checked as far as it is used."""
    if not isinstance(content, dict):
        return FoundItem(address, shown, {}, f"{shown}: {_kind(content)}, no STAC item or catalogue")
    if content.get("type") != "Feature":
        kind = content.get("type")
        what = f"type {kind!r}" if isinstance(kind, str) else "an object without a type"
        return FoundItem(address, shown, {}, f"{shown}: {what}, no STAC item or catalogue")
    identifier = content.get("id")
    if isinstance(identifier, str) and identifier and "#" in shown:
        shown = f"{shown.partition('#')[0]}#{identifier}"
    for key in ("assets", "properties"):
        if not isinstance(content.get(key), dict):
            held = "no" if key not in content else f"{_kind(content[key])} as"
            return FoundItem(address, shown, {}, f"{shown}: a GeoJSON feature with {held} {key}, no STAC item")
    return FoundItem(address, shown, content)


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        int: "a number",
        float: "a number",
        bool: "true or false",
    }
    return names.get(type(value), "null")


def _links(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the links of an object that have an ``href`` and a ``rel``."""
    links = content.get("links")
    return [
        link
        for link in (links if isinstance(links, list) else ())
        if isinstance(link, dict) and isinstance(link.get("href"), str) and isinstance(link.get("rel"), str)
    ]


def _below(address: str, content: Mapping[str, Any], above: frozenset[str], seen: set[str]) -> Iterator[FoundItem]:
    """Yield the items that a catalogue leads to."""
    places = []
    for link in _links(content):
        if link["rel"] not in {"item", "child"}:
            continue
        place = resolve(link["href"], address)
        identity = _identity(place)
        if identity in above:
            logger.warning("%s links back to %s, which is read once", without_secrets(address), without_secrets(place))
        elif identity not in seen:
            seen.add(identity)
            places.append(place)
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        for place, loaded in zip(places, pool.map(_load_or_problem, places), strict=True):
            if isinstance(loaded, str):
                yield FoundItem(place, without_secrets(place), {}, loaded)
            else:
                yield from _items_in(*loaded, above | {_identity(place), _identity(loaded[0])}, seen)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupt does not wait for thousands of items


def _identity(address: str) -> str:
    return urldefrag(address).url if "://" in address else str(Path(address).resolve())


def _load_or_problem(address: str) -> tuple[str, Any] | str:
    try:
        return _load(address)
    except UserError as error:
        return str(error)


def _load(address: str) -> tuple[str, Any]:
    """Return what a file holds, and its address after redirections.

    Raises:
        UserError: it cannot be read, or is no JSON.
    """
    shown = without_secrets(address)
    if is_web(address):
        address, content = _fetch(address)
    elif "://" in address or address.startswith("/vsi"):
        raise UserError(f"{shown}: STAC files are read from disk and over http(s); copy it, and pass the copy")
    else:
        try:
            content = Path(address).read_bytes()
        except FileNotFoundError:
            raise UserError(f"no file {shown}; check the path") from None
        except OSError as error:
            raise UserError(f"cannot read {shown}: {write_problem(error)}") from error
    return address, _parsed(content, shown)


def _parsed(content: bytes, shown: str) -> Any:
    """Return what JSON stands for; of several values, one in a line, a list.

    Raises:
        UserError: it is no JSON.
    """
    try:
        if content.startswith(b"\x1f\x8b"):  # files of catalogues that are stored compressed
            content = gzip.decompress(content)
        text = content.decode(json.detect_encoding(content))  # PowerShell writes UTF-16
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{shown} is no JSON file ({str(error).splitlines()[0]})") from error
    if text.lstrip().startswith("<"):
        raise UserError(f"{shown} is a web page or XML, no JSON; pass the address of the JSON file itself")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            return [json.loads(line.lstrip("\x1e")) for line in lines] if len(lines) > 1 else _refuse(error)
        except (ValueError, RecursionError):
            raise UserError(
                f"{shown} is damaged: no valid JSON ({str(error).splitlines()[0]}); copy or download it again"
            ) from error


def _refuse(error: Exception) -> Any:
    raise error


def _fetch(address: str, most: int = _MOST_BYTES) -> tuple[str, bytes]:
    """Return the address after redirections and the content, or its first ``most`` bytes, of a file on the web.

    Raises:
        UserError: the server does not answer, or not with the file.
    """
    shown = without_secrets(address)
    parts = urlsplit(address)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
    opener = build_opener()
    if parts.username is not None:
        passwords = HTTPPasswordMgrWithDefaultRealm()
        passwords.add_password(None, plain, unquote(parts.username), unquote(parts.password or ""))
        opener = build_opener(HTTPBasicAuthHandler(passwords))
    for pause in (*_PAUSES_S, None):
        try:
            with opener.open(Request(plain, headers=_HEADERS), timeout=_TIMEOUT_S) as answer:
                content = answer.read(most + 1 if most == _MOST_BYTES else most)
                final = urlsplit(str(answer.geturl()))
            break
        except HTTPError as error:
            reason, momentary = f"the server answers {error.code} {error.reason}", error.code in _MOMENTARY
            error.close()
        except (URLError, OSError, http.client.HTTPException, ValueError) as error:
            cause = getattr(error, "reason", error)
            momentary = not isinstance(cause, ValueError | ConnectionRefusedError | socket.gaierror | TimeoutError)
            if isinstance(cause, TimeoutError):
                reason = f"no answer in {_TIMEOUT_S:g} s"
            else:
                reason = without_secrets(str(getattr(cause, "strerror", None) or cause or type(error).__name__))
        if not momentary or pause is None:
            raise UserError(f"cannot read {shown}: {reason.splitlines()[0]}; check the address") from None
        time.sleep(pause)
    if most == _MOST_BYTES and len(content) > most:
        raise UserError(f"{shown} has more than {most >> 20} MiB; pass a part of the items")
    if parts.username is not None and final.netloc == urlsplit(plain).netloc:
        final = final._replace(netloc=parts.netloc)  # what it links to on the same server needs the password as well
    return final.geturl(), content
