"""What a repository of the loopback hub is, and the HTTP routes under which the Hub's client asks for it.

Not covered: Xet, pagination, pull requests, multi-part uploads, data sets, spaces, git.
"""

import base64
import hashlib
import json
import re
import socket
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from hub_server import HubServer

DATE = "2024-01-01T00:00:00.000Z"
LARGE_SUFFIXES = (".bin", ".ckpt", ".onnx", ".pt", ".pth", ".pyth", ".safetensors", ".mp4", ".png")


class Blob:
    """The content of one file of one commit."""

    def __init__(self, content: bytes, large: bool) -> None:
        self.content = content
        self.large = large
        self.sha256 = hashlib.sha256(content).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(content)}\n"
        stored = pointer.encode() if large else content
        self.oid = hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid


class Commit(NamedTuple):
    sha: str
    title: str
    parent: "Commit | None"
    files: dict[str, Blob]


@dataclass
class Repo:
    """A model repository: every branch and tag names a commit."""

    name: str
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, title: str, files: dict[str, Blob], branch: str = "main") -> str:
        """Make `files` the content of `branch`; returns the commit's sha."""
        parent = self.commits.get(self.branches.get(branch, ""))
        text = repr((self.name, len(self.commits), title, {path: blob.oid for path, blob in files.items()}))
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = Commit(sha, title, parent, files)
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> Commit | None:
        revision = revision.removeprefix("refs/heads/")
        return self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)


class HttpError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Handler(BaseHTTPRequestHandler):
    """Finds the route of a request; each route is one short method below."""

    hub: "HubServer"
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """The log is `hub.requests`."""

    def handle_any(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        self.query = urllib.parse.parse_qs(url.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if url.path != "/api/agent-harnesses":  # sent by the client on its own account, at most once a day
            self.hub.log(self.command, url.path, self.headers.get("Range"))
        try:
            if fault := self.hub.take_fault("status", url.path):
                raise HttpError(fault.status, message="broken on demand")
            for method, pattern, route in ROUTES:
                match = re.fullmatch(pattern, url.path)
                if match and self.command in method.split("|"):
                    with self.hub.state:
                        answer = route(self, *map(urllib.parse.unquote, match.groups()))
                    answer()
                    return
            raise HttpError(404, "EntryNotFound", f"no route {self.command} {url.path}")
        except HttpError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.message}
            self.send(json.dumps({"error": error.message}).encode(), error.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    # --- answers

    def send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, value: Any) -> Callable[[], None]:
        return lambda: self.send(json.dumps(value).encode(), 200, {"Content-Type": "application/json"})

    def content(self, content: bytes, headers: dict[str, str]) -> Callable[[], None]:
        return lambda: self.send_content(content, headers)

    def send_content(self, content: bytes, headers: dict[str, str]) -> None:
        """A file, or the range of it that was asked for, spoilt as ordered."""
        status, headers = 200, {"Accept-Ranges": "bytes", **headers}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            status, content = 206, content[first : last + 1]
        if self.command == "GET" and self.hub.take_fault("flip", self.path):
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        if self.command == "GET" and self.hub.take_fault("drop", self.path):
            self.send(content[: len(content) // 2], status, {**headers, "Content-Length": str(len(content))})
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send(content, status, headers)

    # --- what requests name

    @property
    def signed_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def require_writer(self) -> None:
        if not self.signed_in:
            raise HttpError(401, message="Invalid credentials in Authorization header")

    def repo(self, name: str) -> Repo:
        if name not in self.hub.repos:
            raise HttpError(404 if self.signed_in else 401, "RepoNotFound", "Repository not found")
        return self.hub.repos[name]

    def commit(self, name: str, revision: str) -> Commit:
        commit = self.repo(name).resolve(revision)
        if commit is None:
            raise HttpError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    # --- downloads

    def plain_file(self, name: str) -> Callable[[], None]:
        if name not in self.hub.files:
            raise HttpError(404)
        return self.content(self.hub.files[name], {})

    def cdn_file(self, oid: str) -> Callable[[], None]:
        name = self.query.get("filename", [oid])[0]
        headers = {"ETag": f'"{oid}"', "Content-Disposition": f'inline; filename="{name}";'}
        return self.content(self.hub.objects[oid], headers)

    def resolve(self, name: str, revision: str, path: str) -> Callable[[], None]:
        commit = self.commit(name, revision)
        if self.repo(name).gated and not self.signed_in:
            status = 403 if "Authorization" in self.headers else 401
            raise HttpError(status, "GatedRepo", f"Access to model {name} is restricted")
        if path not in commit.files:
            raise HttpError(404, "EntryNotFound", "Entry not found")
        blob = commit.files[path]
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{blob.etag}"'}
        if not blob.large:
            return self.content(blob.content, headers)
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
        headers["Location"] = f"{self.hub.cdn}/cdn/{blob.sha256}?filename={path.rpartition('/')[2]}"
        return lambda: self.send(b"", 302, headers)

    # --- what a repository holds

    def entry(self, path: str, blob: Blob) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.oid}
        if blob.large:
            entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 130}
        return entry

    def entries(self, commit: Commit) -> list[dict[str, Any]]:
        """All files of a commit, and the folders they lie in."""
        folders = {path[: end.start()] for path in commit.files for end in re.finditer("/", path)}
        listed = [{"type": "directory", "path": path, "size": 0, "oid": commit.sha} for path in folders]
        listed += [self.entry(path, blob) for path, blob in commit.files.items()]
        return sorted(listed, key=lambda entry: str(entry["path"]))

    def model_info(self, name: str, revision: str = "main") -> Callable[[], None]:
        commit, repo = self.commit(name, revision), self.repo(name)
        siblings: list[dict[str, Any]] = []
        for path, blob in sorted(commit.files.items()):
            entry = self.entry(path, blob)
            lfs = {"sha256": blob.sha256, "size": len(blob.content), "pointerSize": 130} if blob.large else None
            blobs = {"size": entry["size"], "blobId": blob.oid, "lfs": lfs} if "blobs" in self.query else {}
            siblings.append({"rfilename": path, **blobs})
        about = {"id": name, "modelId": name, "author": name.partition("/")[0], "sha": commit.sha}
        state = {"private": False, "disabled": False, "gated": "manual" if repo.gated else False}
        dates = {"lastModified": DATE, "createdAt": DATE}
        return self.json({**about, **state, **dates, "tags": [], "downloads": 0, "siblings": siblings})

    def tree(self, name: str, revision: str, folder: str = "") -> Callable[[], None]:
        entries = self.entries(self.commit(name, revision))
        inside = [entry for entry in entries if entry["path"].startswith(f"{folder}/" if folder else "")]
        if folder and not inside:
            raise HttpError(404, "EntryNotFound", f"{folder} does not exist")
        if self.query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            depth = folder.count("/") + 1 if folder else 0
            inside = [entry for entry in inside if entry["path"].count("/") == depth]
        return self.json(inside)

    def paths_info(self, name: str, revision: str) -> Callable[[], None]:
        asked = urllib.parse.parse_qs(self.body.decode())["paths"]
        return self.json([entry for entry in self.entries(self.commit(name, revision)) if entry["path"] in asked])

    def refs(self, name: str) -> Callable[[], None]:
        def listed(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
            return [{"name": key, "ref": f"refs/{kind}/{key}", "targetCommit": sha} for key, sha in refs.items()]

        repo = self.repo(name)
        return self.json(
            {"branches": listed("heads", repo.branches), "tags": listed("tags", repo.tags), "converts": []}
        )

    def commits(self, name: str, revision: str) -> Callable[[], None]:
        listed = []
        commit: Commit | None = self.commit(name, revision)
        while commit is not None:
            author = [{"user": self.hub.user}]
            listed.append({"id": commit.sha, "title": commit.title, "message": "", "date": DATE, "authors": author})
            commit = commit.parent
        return self.json(listed)

    # --- uploads

    def whoami(self) -> Callable[[], None]:
        self.require_writer()
        return self.json({"type": "user", "name": self.hub.user, "orgs": [], "auth": {"type": "access_token"}})

    def create_repo(self) -> Callable[[], None]:
        self.require_writer()
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or self.hub.user}/{asked['name']}"
        answer = {"url": f"{self.hub.url}/{name}", "name": name}
        if name in self.hub.repos:
            text = json.dumps({"error": "You already created this model repo", **answer}).encode()
            return lambda: self.send(text, 409)
        self.hub.add_repo(name, {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        return self.json(answer)

    def create_branch(self, name: str, branch: str) -> Callable[[], None]:
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        return self.create_ref(self.repo(name).branches, branch, self.commit(name, start))

    def create_tag(self, name: str, revision: str) -> Callable[[], None]:
        return self.create_ref(self.repo(name).tags, json.loads(self.body)["tag"], self.commit(name, revision))

    def create_ref(self, refs: dict[str, str], ref: str, commit: Commit) -> Callable[[], None]:
        self.require_writer()
        if ref in refs:
            raise HttpError(409, message=f"Reference {ref} exists already")
        refs[ref] = commit.sha
        return self.json({})

    def preupload(self, name: str, revision: str) -> Callable[[], None]:
        self.require_writer()
        self.commit(name, revision)
        answers = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE_SUFFIXES) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        return self.json({"files": answers})

    def lfs_batch(self, name: str) -> Callable[[], None]:
        self.require_writer()
        self.repo(name)
        answers = []
        for wanted in json.loads(self.body)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.objects:
                put, verify = f"{self.hub.cdn}/cdn/{wanted['oid']}", f"{self.hub.url}/{name}.git/info/lfs/verify"
                answer["actions"] = {"upload": {"href": put}, "verify": {"href": verify}}
            answers.append(answer)
        return self.json({"transfer": "basic", "objects": answers})

    def put_object(self, oid: str) -> Callable[[], None]:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HttpError(400, message="the content does not have the hash it was announced with")
        self.hub.objects[oid] = self.body
        return self.json({})

    def verify_object(self, name: str) -> Callable[[], None]:
        announced = json.loads(self.body)
        content = self.hub.objects.get(announced["oid"])
        if content is None or len(content) != announced["size"]:
            raise HttpError(422, message=f"{name} has no object {announced['oid']} of that size")
        return self.json({})

    def add_commit(self, name: str, revision: str) -> Callable[[], None]:
        self.require_writer()
        lines = [json.loads(line) for line in self.body.splitlines()]
        head = self.commit(name, revision)
        if lines[0]["value"].get("parentCommit", head.sha) != head.sha:
            raise HttpError(412, message="the branch has moved on")
        files = dict(head.files)
        for line in lines[1:]:
            key, value = line["key"], line["value"]
            path = value["path"]
            if key == "file":
                files[path] = Blob(base64.b64decode(value["content"]), large=False)
            elif key == "lfsFile":
                files[path] = Blob(self.hub.objects[value["oid"]], large=True)
            elif key in ("deletedFile", "deletedFolder"):
                files = {kept: files[kept] for kept in files if kept != path and not kept.startswith(f"{path}/")}
        sha = self.repo(name).commit(lines[0]["value"]["summary"], files, revision)
        url = f"{self.hub.url}/{name}/commit/{sha}"
        return self.json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def empty_answer(self) -> Callable[[], None]:
        return self.json({})


REPO, REF = r"([^/]+/[^/]+)", r"([^/]+)"
ROUTES: list[tuple[str, str, Callable[..., Callable[[], None]]]] = [
    ("GET|HEAD", r"/files/(.+)", Handler.plain_file),
    ("GET|HEAD", r"/cdn/([0-9a-f]{64})", Handler.cdn_file),
    ("GET|HEAD", rf"/{REPO}/resolve/{REF}/(.+)", Handler.resolve),
    ("GET", rf"/api/models/{REPO}", Handler.model_info),
    ("GET", rf"/api/models/{REPO}/revision/{REF}", Handler.model_info),
    ("GET", rf"/api/models/{REPO}/tree/{REF}", Handler.tree),
    ("GET", rf"/api/models/{REPO}/tree/{REF}/(.+)", Handler.tree),
    ("POST", rf"/api/models/{REPO}/paths-info/{REF}", Handler.paths_info),
    ("GET", rf"/api/models/{REPO}/refs", Handler.refs),
    ("GET", rf"/api/models/{REPO}/commits/{REF}", Handler.commits),
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create_repo),
    ("POST", rf"/api/models/{REPO}/branch/{REF}", Handler.create_branch),
    ("POST", rf"/api/models/{REPO}/tag/{REF}", Handler.create_tag),
    ("POST", rf"/api/models/{REPO}/preupload/{REF}", Handler.preupload),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/cdn/([0-9a-f]{64})", Handler.put_object),
    ("POST", rf"/{REPO}\.git/info/lfs/verify", Handler.verify_object),
    ("POST", rf"/api/models/{REPO}/commit/{REF}", Handler.add_commit),
    ("POST", r"/api/validate-yaml", Handler.empty_answer),
    ("GET", r"/api/agent-harnesses", Handler.empty_answer),
]
