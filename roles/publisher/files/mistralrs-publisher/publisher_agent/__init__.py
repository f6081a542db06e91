"""The publisher agent: the only writer of the repositories on a repo host.

It runs as the forced command of an ssh key (``--ssh``: the command is in SSH_ORIGINAL_COMMAND) or, on the same
machine, in place of ssh (``--rsh HOST WORD...``). Both read one command and answer with one line of JSON:

    head CHANNEL                                 {"snapshot": ID or "", "path", "time",
                                                  "room": bytes that may be uploaded, "files": free inodes or null}
    rsync --server FLAGS . CHANNEL/TRANSACTION/  receives an upload; rsync on the client sends this command
    stage CHANNEL TRANSACTION --parent ID|-      verifies the upload and lays it ready: {"snapshot": ID}
    publish CHANNEL TRANSACTION --parent ID|-    makes the staged snapshot the head, stages it first if needed:
                                                 {"snapshot": ID}
    drop CHANNEL TRANSACTION                     removes an upload and its staged snapshot: {"snapshot": HEAD}
    prune CHANNEL [--dry-run]                    {"snapshots": removed, "packages": removed,
                                                 "waiting": {file name: end of its grace}}
    verify CHANNEL                               reads every byte: {"snapshots", "packages", "bytes", "findings"}
    status CHANNEL                               the state of the channel, see report.status

Exit status: 0 done; 1 refused; 2 not a command, or not for this key; 3 the head is no longer the parent; 4 another
command holds the lock (try again). An error is one line of JSON on stderr: error, where, remedy, status.

An upload holds ``snapshot/`` (repodata/, packages.txt, snapshot.json, snapshot.json.asc) and ``Packages/`` (the
packages that the pool lacks). Rules:

 1. Clients reach only what was verified against the trusted keys. The agent holds no private key: whoever takes
    over this host cannot make a client trust a package.
 2. The head is the snapshot that the mirrorlist names. Publishing is the rename of the mirrorlist: before it the
    channel is the old snapshot, after it the new one, whenever the agent is killed.
 3. A snapshot never changes. A name in the pool never changes its bytes. A file leaves the pool when it is dropped
    (no head ever named it), pruned (no kept snapshot names it, and its grace is over) or yanked.
 4. A staged snapshot is complete under its final URL, with its packages, and no mirrorlist has named it.
    ``staged/<transaction>`` is on disk before anything is added for it. The next command finishes a transaction
    whose snapshot is the head, and takes back one whose snapshot is not on disk: both are of killed commands. Any
    other stays until it is published, dropped, staged again, or two days old.
 5. ``publish`` names the head that the snapshot was composed on, and is refused on any other. So two publishers
    never lose each other's packages, and an old upload cannot be replayed.
 6. One command at a time changes a channel (flock on ``lock``). An upload that is still being written is neither
    staged nor dropped (rsync inherits a flock on the folder of its transaction). An upload is copied and verified
    before the lock is taken: a slow one delays nobody.
 7. Every command is idempotent: repeated after it succeeded, it gives the same answer.
 8. A refused command changes nothing and keeps the upload. It can be sent again, and resumes with the packages
    that are there; its snapshot/ starts empty each time.
 9. A snapshot lists, signed, all packages that were ever yanked: none of them is published again. Their files are
    removed when the snapshot that yanks them becomes the head.
10. The retention is the host's own (see prune), and so are space, time and number of uploads (see upload).
11. The folder of an upload is the uploader's: names, kinds, modes and contents may be anything and may change at any
    time. The agent reaches it without following links (see inside), copies from it, and verifies and publishes the
    copy. A bad upload fails itself alone.
12. Programs that parse what an uploader sent run with limits and, where the kernel has Landlock, confined (see
    confine). Before them, the agent checks the outer shape of signatures and packages itself (see formats).
13. A head whose files are damaged can be left: its id and the journal are enough to publish the next snapshot on it.
14. The id of a transaction is known to its uploader: whoever knows it can occupy or drop the upload. Answers over ssh
    shorten ids.

The agent uses the standard library and the host's rsync, gpgv and rpm. It shares no code with the signer, on
purpose: a defect of the signer's code must not be able to hide here. The state on disk is described in host.

A module imports only modules to its left: refusal, confine, formats, command, disk, inside, host, metadata, trust,
upload, staged, examine, publish, prune, report, command_line. All imports are at the top: a running agent does not
depend on its files.
"""
