#!/usr/bin/env python3
"""A stand-in for the part of Cloudflare's API, version 4, that certbot and community.general.cloudflare_dns use.

    cloudflare.py ADDRESS FOLDER

Rules:
- It serves https on port 443 of the address with the certificate stand-in.pem of the folder, and stores the records in
  cloudflare.json there.
- It accepts one token, that of the file secrets/cloudflare_token, limited to the records of one zone. Unauthorized and
  malformed requests get the status, code and text of Cloudflare's own answer.
- DNS serves the zone's records at once: each change is sent to pebble-challtestsrv.
- Port 8080 is a proxy for https only. It connects to this API under each of its names, and to hosts of the zone.
"""

from __future__ import annotations

import ipaddress
import json
import re
import select
import socket
import ssl
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from settings import CONTROLLER, ZONE, hosts

API = "/client/v4"
API_NAMES = ("api.cloudflare.com", f"api.cloudflare.{ZONE}")
ZONE_ID = uuid.uuid5(uuid.NAMESPACE_DNS, ZONE).hex
CREATED = "2026-01-01T00:00:00.000000Z"
DNS = f"http://{CONTROLLER}:8055"

Json = dict[str, object]

DESCRIPTION: Json = {
    "status": "active",
    "type": "full",
    "paused": False,
    "permissions": ["#dns_records:edit", "#dns_records:read", "#zone:read"],
    "name_servers": ["a.ns.example", "b.ns.example"],
    "account": {"id": "0" * 32, "name": "stand-in"},
    "plan": {"id": "free", "name": "Free Website"},
    "created_on": CREATED,
    "modified_on": CREATED,
}


class Refused(Exception):
    """An error in Cloudflare's format."""

    def __init__(self, status: int, code: int, message: str, *chain: tuple[int, str]):
        super().__init__(message)
        self.status = status
        self.error: Json = {"code": code, "message": message}
        if chain:
            self.error["error_chain"] = [{"code": number, "message": text} for number, text in chain]


def invalid(code: int, message: str) -> Refused:
    return Refused(400, 1004, "DNS Validation Error", (code, message))


def not_routed(path: str) -> Refused:
    text = f"Could not route to {path}, perhaps your object identifier is invalid?"
    return Refused(404, 7003, text, (7000, "No route for that URI"))


def check_token(header: str | None, token: str) -> None:
    """Raises the error of a missing, malformed or unknown token."""
    if not header:
        raise Refused(400, 9106, "Missing X-Auth-Key, X-Auth-Email or Authorization headers")
    words = header.split()
    if len(words) != 2 or words[0] != "Bearer" or not re.fullmatch(r"[A-Za-z0-9_-]{40,}", words[1]):
        raise Refused(400, 6003, "Invalid request headers", (6111, "Invalid format for Authorization header"))
    if words[1] != token:
        raise Refused(403, 9109, "Invalid access token")


def content_of(record: Json) -> str:
    """The content of a record as one string; clients send CAA as its parts."""
    data = record.get("data")
    if record["type"] == "CAA" and isinstance(data, dict):
        try:
            flags = int(data["flags"])
            return f'{flags} {data["tag"]} "{data["value"]}"'
        except (KeyError, ValueError) as error:
            raise invalid(9101, "flags, tag and value are required for CAA records.") from error
    return str(record.get("content") or "")


@dataclass
class Zone:
    """The records of one zone; every change is validated first. `notify` gets the type and name of each change."""

    name: str = ZONE
    records: dict[str, Json] = field(default_factory=dict)
    notify: Callable[[str, str], None] = lambda _type, _name: None

    def find(self, query: dict[str, str]) -> list[Json]:
        """Records filtered by type, name and content; the keys may also be written as name.exact."""
        wanted = {key.removesuffix(".exact"): value for key, value in query.items()}
        filters = {key: wanted[key] for key in ("type", "name", "content") if key in wanted}
        return [
            record
            for record in self.records.values()
            if all(str(record[key]).lower() == value.lower() for key, value in filters.items())
        ]

    def add(self, wish: Json) -> Json:
        record = self._checked(wish)
        for other in self.records.values():
            if (other["type"], other["name"], other["content"]) == (record["type"], record["name"], record["content"]):
                raise Refused(400, 81058, "An identical record already exists.")
        record |= {"id": uuid.uuid4().hex, "created_on": _now(), "modified_on": _now()}
        self.records[str(record["id"])] = record
        self._notify(record)
        return record

    def get(self, identity: str) -> Json:
        if identity not in self.records:
            raise Refused(404, 81044, "Record does not exist.")
        return self.records[identity]

    def change(self, identity: str, wish: Json) -> Json:
        before = self.get(identity)
        after = before | self._checked(wish) | {"id": identity, "modified_on": _now()}
        self.records[identity] = after
        self._notify(before)
        self._notify(after)
        return after

    def delete(self, identity: str) -> Json:
        record = self.get(identity)
        del self.records[identity]
        self._notify(record)
        return {"id": identity}

    def _notify(self, record: Json) -> None:
        self.notify(str(record["type"]), str(record["name"]))

    def _checked(self, wish: Json) -> Json:
        kind = str(wish.get("type", "")).upper()
        if kind not in {"A", "AAAA", "CAA", "CNAME", "TXT"}:
            raise Refused(400, 1004, "DNS Validation Error", (9004, f"Invalid DNS record type {kind}."))
        name = str(wish.get("name", "")).lower().rstrip(".")
        if not name:
            raise invalid(9000, "DNS name is invalid.")
        if name != self.name and not name.endswith(f".{self.name}"):
            name = self.name if name == "@" else f"{name}.{self.name}"
        content = content_of({**wish, "type": kind})
        for family, version, code in (("A", 4, 9005), ("AAAA", 6, 9006)):
            if kind == family and not _is_address(content, version):
                raise Refused(400, code, f"Content for {kind} record must be a valid IPv{version} address.")
        if not content:
            raise invalid(9019, "Content is required.")
        ttl = wish.get("ttl") or 1
        if not isinstance(ttl, int) or (ttl != 1 and not 60 <= ttl <= 86400):
            raise invalid(9021, "Invalid TTL. Must be between 60 and 86400 seconds, or 1 for Automatic.")
        record: Json = {
            "type": kind,
            "name": name,
            "content": content,
            "ttl": ttl,
            "proxied": bool(wish.get("proxied")),
            "proxiable": kind in {"A", "AAAA", "CNAME"},
            "comment": wish.get("comment"),
            "tags": wish.get("tags") or [],
            "settings": {},
            "meta": {},
        }
        return record | ({"data": wish["data"]} if "data" in wish else {})


def answer(zone: Zone, method: str, path: str, query: dict[str, str], wish: Json) -> tuple[object, bool]:
    """The result of an authorized request, and whether it is a list with pages."""
    described = {"id": ZONE_ID, "name": zone.name, **DESCRIPTION}
    if (method, path) == ("GET", "/user/tokens/verify"):
        return {"id": "1" * 32, "status": "active"}, False
    if (method, path) == ("GET", "/zones"):
        wanted = query.get("name", zone.name)
        return [described] if wanted == zone.name else [], True
    matched = re.fullmatch(r"/zones/([^/]+)(/dns_records(?:/([^/]+))?)?", path)
    if not matched or not re.fullmatch(r"[0-9a-f]{32}", matched[1]):
        raise not_routed(path)
    if matched[1] != ZONE_ID:
        raise Refused(403, 10000, "Authentication error")
    if not matched[2]:
        return described, False
    identity = matched[3] or ""
    of_all = {"GET": lambda: zone.find(query), "POST": lambda: zone.add(wish)}
    of_one = {
        "GET": lambda: zone.get(identity),
        "PUT": lambda: zone.change(identity, wish),
        "PATCH": lambda: zone.change(identity, zone.get(identity) | wish),
        "DELETE": lambda: zone.delete(identity),
    }
    action = (of_one if identity else of_all).get(method)
    if not action:
        raise Refused(405, 10405, "Method not allowed for this authentication scheme")
    return action(), not identity and method == "GET"


def page_of(items: list, query: dict[str, str]) -> tuple[list, Json]:
    """One page of a list, and Cloudflare's description of it."""
    size = max(1, min(int(query.get("per_page", 100)), 5000))
    number = max(1, int(query.get("page", 1)))
    part = items[(number - 1) * size : number * size]
    pages = -(-len(items) // size)
    facts = {"page": number, "per_page": size, "count": len(part), "total_count": len(items), "total_pages": pages}
    return part, facts


def _is_address(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())


# -- DNS


def update_dns(zone: Zone, kind: str, name: str) -> None:
    """Makes pebble-challtestsrv serve the zone's records of a name and type."""
    contents = [str(record["content"]) for record in zone.find({"type": kind, "name": name})]
    word = kind.lower()
    host = f"{name}."
    _post(f"clear-{word}", {"host": host})
    if kind in {"A", "AAAA"} and contents:
        _post(f"add-{word}", {"host": host, "addresses": contents})
    elif kind == "CAA" and contents:
        parts = [re.match(r'\d+ (\S+) "(.*)"', content) for content in contents]
        _post("add-caa", {"host": host, "policies": [{"tag": part[1], "value": part[2]} for part in parts if part]})
    elif kind == "CNAME" and contents:
        _post("set-cname", {"host": host, "target": f"{contents[0]}."})
    else:
        for content in contents:
            # Clients send TXT with quotes (since 2024) or without.
            _post("set-txt", {"host": host, "value": content.strip('"')})


def _post(what: str, values: Json) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(f"{DNS}/{what}", json.dumps(values).encode()), timeout=5):
        pass


# -- the servers


class Handler(BaseHTTPRequestHandler):
    """One request to the API: checks the token, answers, stores the records."""

    protocol_version = "HTTP/1.1"
    zone: Zone
    token: str
    memory: Path
    lock = threading.Lock()

    def reply(self) -> None:
        words = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(words.query).items()}
        facts: Json = {"success": True, "errors": [], "messages": []}
        status = 200
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if not words.path.startswith(f"{API}/"):
                raise not_routed(words.path)
            check_token(self.headers.get("Authorization"), self.token)
            try:
                wish = json.loads(body or b"{}")
            except ValueError as error:
                raise Refused(400, 9207, "Request body is invalid.") from error
            with self.lock:
                result, paged = answer(self.zone, self.command, words.path.removeprefix(API), query, wish)
                if self.command != "GET":
                    self.memory.write_text(json.dumps(self.zone.records, indent=1))
            if paged and isinstance(result, list):
                result, facts["result_info"] = page_of(result, query)
            facts["result"] = result
        except Refused as refused:
            status = refused.status
            facts |= {"success": False, "errors": [refused.error], "result": None}
        raw = json.dumps(facts).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = reply  # noqa: N815  http.server's names


class Proxy(BaseHTTPRequestHandler):
    """CONNECT only, to the API and to hosts of the zone; other names get the status 502."""

    protocol_version = "HTTP/1.1"
    zone: Zone

    def do_CONNECT(self) -> None:
        name, _, port = self.path.partition(":")
        address = self.address(name.lower())
        try:
            if not address:
                raise OSError("unknown name")
            other = socket.create_connection((address, int(port or 443)), timeout=10)
        except OSError as error:
            self.send_error(502, f"{name}: {error}")
            return
        with other:
            self.send_response(200, "Connection established")
            self.end_headers()
            self.wfile.flush()
            pass_on(self.connection, other)
        self.close_connection = True

    def address(self, name: str) -> str:
        known = {host.fqdn: host.address for host in hosts().values()}
        known |= {str(record["name"]): str(record["content"]) for record in self.zone.find({"type": "A"})}
        known |= dict.fromkeys((*API_NAMES, f"pebble.{ZONE}", f"mirror.{ZONE}"), CONTROLLER)
        return known.get(name, "")


def pass_on(one: socket.socket, other: socket.socket) -> None:
    """Relays bytes both ways until a side ends or a minute passes without any."""
    pair = {one: other, other: one}
    while ready := select.select([one, other], [], [], 60)[0]:
        for side in ready:
            try:
                data = side.recv(65536)
                if not data:
                    return
                pair[side].sendall(data)
            except OSError:
                return


class TlsServer(ThreadingHTTPServer):
    """Does each handshake in the connection's own thread: a silent client blocks nobody."""

    daemon_threads = True
    context: ssl.SSLContext

    def get_request(self) -> tuple[socket.socket, object]:
        plain, address = super().get_request()
        plain.settimeout(60)
        return self.context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002  socketserver's names
        print(f"{client_address}: {sys.exc_info()[1]}", file=sys.stderr, flush=True)


def main(arguments: Iterable[str]) -> None:
    bind, folder = arguments
    memory = Path(folder, "cloudflare.json")
    zone = Zone(records=json.loads(memory.read_text()) if memory.exists() else {})
    zone.notify = lambda kind, name: update_dns(zone, kind, name)
    for kind, name in {(str(record["type"]), str(record["name"])) for record in zone.records.values()}:
        update_dns(zone, kind, name)
    token = Path(folder, "secrets/cloudflare_token").read_text().strip()
    TlsServer.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    TlsServer.context.load_cert_chain(Path(folder, "stand-in.pem"), Path(folder, "stand-in.key"))
    api = TlsServer((bind, 443), type("Api", (Handler,), {"zone": zone, "token": token, "memory": memory}))
    proxy = ThreadingHTTPServer((bind, 8080), type("ZoneProxy", (Proxy,), {"zone": zone}))
    proxy.daemon_threads = True
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    api.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
