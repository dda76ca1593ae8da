/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * entry.h - EntryInfo: what filesystem.Filesystem says of one file
 *
 *     {"name": "a", "type": "FILE_TYPE_FILE", "path": "/home/user/a", "size": "3", "mode": 420,
 *      "permissions": "-rw-r--r--", "owner": "user", "group": "user",
 *      "modifiedTime": "2026-01-02T03:04:05.123456789Z", "symlinkTarget": "/x", "metadata": {}}
 *
 * Of a symbolic link, type and mode are the target's, symlinkTarget is where it leads in the end,
 * and everything else is the link's own; one that leads nowhere is FILE_TYPE_UNSPECIFIED, mode 0,
 * and its own target. Sockets, fifos and devices are FILE_TYPE_UNSPECIFIED. Names that are not
 * UTF-8: text.h. Blocks on the sandbox's files: for helpers (helper.h) only.
 * Source: proto3 JSON of envd's filesystem.proto; permissions as Go's fs.FileMode.String()
 */
#include <sys/stat.h>

#include "agent/owner.h"
#include "base/buf.h"

/**
 * entry_append() - append the EntryInfo of one file
 * @path: the absolute path to show, which leads to it
 * @st:   of the file itself, not of a link's target (lstat)
 * Return: 0; -ENOMEM
 */
int entry_append(struct buf *b, struct owner *owner, const char *path, const struct stat *st);

/** entry_stat() - {@before}EntryInfo{@after} of @path. Return: 0; negative errno of lstat */
int entry_stat(struct buf *b, struct owner *owner, const char *path, const char *before,
	       const char *after);

/** entry_permissions() - "-rw-r--r--", "dtrwxrwxrwx", "Lrwxrwxrwx"; @buf holds 16 bytes */
char *entry_permissions(mode_t mode, char buf[16]);
