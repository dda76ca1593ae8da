/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"

#define BLOCK_BYTES    (256u << 10)
#define SPACE_EVERY    (16ull << 20) /* how often the file system is asked for its free space */
#define NAME_MAX_SHOWN 200

struct unpack {
	struct archive *a;
	const char *name;
	int root_fd;
	const char *into;
	const struct tree_owner *owner;
	const struct unpack_limits *limits;
	struct problem *problem;
	struct unpack_stats stats;
	uint64_t asked_at; /* stats.bytes when free space was last looked at */
	const char *path;  /* of the entry at hand, inside the tree */
};

static int refuse(struct unpack *u, const char *entry, const char *why)
{
	problem_set(u->problem, 400, "%s: entry \"%.*s\": %s", u->name, NAME_MAX_SHOWN, entry, why);
	return -EINVAL;
}

static int failed(struct unpack *u, const char *entry, int r)
{
	problem_errno(u->problem, r, "%s: extracting \"%.*s\"", u->name, NAME_MAX_SHOWN, entry);
	return error_trace(r);
}

static bool has_dot_dot(const char *path)
{
	for (const char *p = path; p; p = strchr(p, '/')) {
		while (*p == '/')
			p++;
		if (p[0] == '.' && p[1] == '.' && (p[2] == '/' || !p[2]))
			return true;
	}
	return false;
}

/* An archive's name for something, as a path in the tree. Return: fresh memory in @ret */
static int inner_path(struct unpack *u, const char *name, char **ret)
{
	if (!name || !*name)
		return refuse(u, "", "has no name");
	if (has_dot_dot(name))
		return refuse(u, name, "its name leads upwards (\"..\")");
	if (strlen(name) >= 4096)
		return refuse(u, name, "its name is longer than 4095 bytes");
	while (*name == '/')
		name++;
	*ret = str_printf("%s/%s", !strcmp(u->into, "/") ? "" : u->into, *name ? name : ".");
	return *ret ? 0 : -ENOMEM;
}

static int check_space(struct unpack *u)
{
	struct statvfs v;

	if (u->limits->cancelled && u->limits->cancelled(u->limits->userdata))
		return -ECANCELED;
	if (u->stats.bytes - u->asked_at < SPACE_EVERY && u->asked_at)
		return 0;
	u->asked_at = u->stats.bytes | 1;
	if (fstatvfs(u->root_fd, &v) < 0)
		return error_errno();
	if ((uint64_t)v.f_bavail * v.f_frsize >= u->limits->free_bytes)
		return 0;
	problem_set(u->problem, 507,
		    "%s: no space left: less than %" PRIu64 " MiB are free after %" PRIu64
		    " MiB were extracted",
		    u->name, u->limits->free_bytes >> 20, u->stats.bytes >> 20);
	return -ENOSPC;
}

static int count_bytes(struct unpack *u, uint64_t more)
{
	char why[96];

	if (more <= u->limits->bytes - u->stats.bytes) {
		u->stats.bytes += more;
		return 0;
	}
	(void)snprintf(why, sizeof(why), "the files are larger than %" PRIu64 " MiB together",
		       u->limits->bytes >> 20);
	return refuse(u, u->path, why);
}

static void owner_of(struct unpack *u, struct archive_entry *e, struct tree_owner *ret)
{
	if (u->owner)
		*ret = *u->owner;
	else
		*ret = (struct tree_owner){(uid_t)archive_entry_uid(e),
					   (gid_t)archive_entry_gid(e)};
}

/* What a guest can use; others (selinux, trusted) mean something to the host that packed it. */
static int set_xattrs(struct unpack *u, int fd, struct archive_entry *e)
{
	const char *name;
	const void *value;
	size_t len;

	(void)archive_entry_xattr_reset(e); /* counts them */
	while (archive_entry_xattr_next(e, &name, &value, &len) == ARCHIVE_OK) {
		if (!str_has_prefix(name, "user.") && strcmp(name, "security.capability"))
			continue;
		if (fsetxattr(fd, name, value, len, 0) < 0 && errno != ENOTSUP)
			return failed(u, u->path, error_errno());
	}
	return 0;
}

/* The blocks of one file; what lies between them is holes. */
static int write_data(struct unpack *u, int fd, uint64_t size)
{
	uint64_t written = 0;
	const void *data;
	la_int64_t at;
	size_t len;
	int r;

	for (;;) {
		r = archive_read_data_block(u->a, &data, &len, &at);
		if (r == ARCHIVE_EOF)
			break;
		if (r < ARCHIVE_WARN)
			return refuse(u, u->path, archive_error_string(u->a) ?: "cannot be read");
		if (at < 0 || (uint64_t)at + len > size)
			return refuse(u, u->path, "holds more than its size");
		for (size_t done = 0; done < len;) {
			ssize_t n = pwrite(fd, (const char *)data + done, len - done,
					   at + (la_int64_t)done);

			if (n < 0 && errno == EINTR)
				continue;
			if (n < 0)
				return failed(u, u->path, error_errno());
			done += (size_t)n;
		}
		written += len;
		if (written >= 1u << 20) {
			written = 0;
			r = check_space(u);
			if (r < 0)
				return r;
		}
	}
	return ftruncate(fd, (off_t)size) < 0 ? failed(u, u->path, error_errno()) : 0;
}

static int make_file(struct unpack *u, struct archive_entry *e)
{
	uint64_t size = (uint64_t)MAX(archive_entry_size(e), (la_int64_t)0);
	_cleanup_fd_ int fd = -1;
	struct tree_owner owner;
	int r;

	r = count_bytes(u, size);
	if (r < 0)
		return r;
	owner_of(u, e, &owner);
	fd = tree_create(u->root_fd, u->path, 0600, &owner);
	if (fd < 0)
		return failed(u, u->path, fd);
	r = write_data(u, fd, size);
	if (r == 0)
		r = set_xattrs(u, fd, e);
	if (r == 0 && fchmod(fd, archive_entry_perm(e)) < 0)
		r = failed(u, u->path, error_errno());
	return r;
}

static int make_directory(struct unpack *u, struct archive_entry *e)
{
	struct tree_owner owner;
	int r;

	owner_of(u, e, &owner);
	r = tree_mkdir(u->root_fd, u->path, archive_entry_perm(e), &owner);
	return r < 0 ? failed(u, u->path, r) : 0;
}

static int make_symlink(struct unpack *u, struct archive_entry *e)
{
	const char *target = archive_entry_symlink(e);
	_cleanup_fd_ int parent = -1;
	struct tree_owner owner;
	char name[256];

	if (!target || !*target || strlen(target) >= 4096)
		return refuse(u, u->path, "is a link to nothing");
	owner_of(u, e, &owner);
	parent = tree_parent(u->root_fd, u->path, name);
	if (parent < 0)
		return failed(u, u->path, parent);
	if ((unlinkat(parent, name, 0) < 0 && errno != ENOENT) ||
	    symlinkat(target, parent, name) < 0 ||
	    fchownat(parent, name, owner.uid, owner.gid, AT_SYMLINK_NOFOLLOW) < 0)
		return failed(u, u->path, error_errno());
	return 0;
}

static int make_hardlink(struct unpack *u, struct archive_entry *e)
{
	_cleanup_fd_ int from_dir = -1, to_dir = -1;
	_cleanup_free_ char *from = NULL;
	char from_name[256], to_name[256];
	struct stat st;
	int r;

	r = inner_path(u, archive_entry_hardlink(e), &from);
	if (r < 0)
		return r;
	from_dir = tree_parent(u->root_fd, from, from_name);
	to_dir = tree_parent(u->root_fd, u->path, to_name);
	if (from_dir < 0 || to_dir < 0)
		return failed(u, u->path, from_dir < 0 ? from_dir : to_dir);
	if (fstatat(from_dir, from_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode)))
		return refuse(u, u->path, "is a hard link to what is not a file of the archive");
	if (unlinkat(to_dir, to_name, 0) < 0 && errno != ENOENT)
		return failed(u, u->path, error_errno());
	if (linkat(from_dir, from_name, to_dir, to_name, 0) < 0)
		return failed(u, u->path, error_errno());
	return 0;
}

static void leave_out(struct unpack *u)
{
	if (u->stats.left_out++ == 0)
		str_copy(u->stats.first_left_out, sizeof(u->stats.first_left_out), u->path);
}

static int extract(struct unpack *u, struct archive_entry *e)
{
	if (archive_entry_hardlink(e))
		return make_hardlink(u, e);
	switch (archive_entry_filetype(e)) {
	case AE_IFREG:
		return make_file(u, e);
	case AE_IFDIR:
		return make_directory(u, e);
	case AE_IFLNK:
		return make_symlink(u, e);
	default:
		leave_out(u);
		return 0;
	}
}

static int extract_next(struct unpack *u, struct archive_entry *e)
{
	_cleanup_free_ char *path = NULL;
	int r;

	if (u->stats.entries++ >= u->limits->entries)
		return refuse(u, archive_entry_pathname(e) ?: "",
			      "the archive has more entries than a root file system may have");
	r = inner_path(u, archive_entry_pathname(e), &path);
	if (r < 0)
		return r;
	u->path = path;
	r = check_space(u);
	return r < 0 ? r : extract(u, e);
}

static int extract_all(struct unpack *u)
{
	struct archive_entry *e;
	int r;

	for (;;) {
		r = archive_read_next_header(u->a, &e);
		if (r == ARCHIVE_EOF)
			break;
		if (r < ARCHIVE_WARN) {
			problem_set(u->problem, 400, "%s: cannot be read as a tar archive: %s",
				    u->name, archive_error_string(u->a) ?: "no reason given");
			return -EINVAL;
		}
		r = extract_next(u, e);
		if (r < 0)
			return r;
	}
	if (u->stats.entries)
		return 0;
	problem_set(u->problem, 400, "%s: is empty", u->name);
	return -EINVAL;
}

static struct archive *open_archive(int fd)
{
	struct archive *a = archive_read_new();

	if (!a)
		return NULL;
	/* By name, not "all": those that start programs are left out. A missing one only means that
	 * such archives are not understood. */
	(void)archive_read_support_filter_gzip(a);
	(void)archive_read_support_filter_bzip2(a);
	(void)archive_read_support_filter_xz(a);
	(void)archive_read_support_filter_zstd(a);
	(void)archive_read_support_filter_lz4(a);
	(void)archive_read_support_format_tar(a);
	if (archive_read_open_fd(a, fd, BLOCK_BYTES) != ARCHIVE_OK) {
		/* the reason stays in @a; reading a header will tell it */
	}
	return a;
}

int unpack_tar(int fd, const char *name, int root_fd, const char *into,
	       const struct tree_owner *owner, const struct unpack_limits *limits,
	       struct problem *problem, struct unpack_stats *ret)
{
	struct unpack u = {.a = open_archive(fd),
			   .name = name,
			   .root_fd = root_fd,
			   .into = into,
			   .owner = owner,
			   .limits = limits,
			   .problem = problem};
	int r;

	if (!u.a)
		return -ENOMEM;
	r = extract_all(&u);
	(void)archive_read_free(u.a); /* everything that mattered was checked before */
	if (r < 0)
		return r;
	*ret = u.stats;
	return 0;
}
