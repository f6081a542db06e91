"""nginx's rules of every site that serves repositories: cache lifetimes, content types and links.

``loopback_site`` reads them here, the template of the role rpm_site by the lookup plugin ``nginx_rules``.
"""

from __future__ import annotations

CACHE_CONTROL = r"""map $uri $mistralrs_cache_control {
    default                      "no-cache";
    "~/snapshots/[^/]+/."        "public, max-age=31536000, immutable";
    "~/Packages/[^/]+\.rpm$"     "public, max-age=31536000, immutable";
    "~/repodata/[0-9a-f]{64}-"   "public, max-age=31536000, immutable";
}"""
"""For the context http: sets $mistralrs_cache_control.

Snapshots, packages and metadata with a digest in its name never change. A client revalidates everything else with each
request, above all the mirrorlist and a plain repomd.xml.
"""

TYPES = """types {
    text/html             html;
    text/css              css;
    text/xml              xml;
    application/atom+xml  atom;
    application/json      json;
    application/gzip      gz;
    application/zstd      zst;
    application/x-rpm     rpm;
    image/svg+xml         svg;
}"""
"""For the context http or server."""

LINKS = r"""disable_symlinks on from=$document_root;
location ~ ^/.+/(repodata|snapshots/[^/]+/Packages)/[^/]*$ {
    disable_symlinks if_not_owner from=$document_root;
}"""
"""For the context server, after the locations that refuse paths: no link is followed but a repository's own two.

They are the head's metadata and a snapshot's packages, and lead only to files of the link's owner. An account that
writes a repository could otherwise have any file served that nginx may read.
"""
