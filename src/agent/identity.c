/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/identity.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"

#define HOSTS_MAX  (64u << 10)
#define HOSTS	   "/etc/hosts"
#define HOSTS_ADDR "127.0.1.1"

static bool is_not_writable(int r)
{
	static const int errors[] = {EROFS, EACCES, EPERM, ENOENT, ENOTDIR, EISDIR, ENXIO, ELOOP};

	for (size_t i = 0; i < ARRAY_SIZE(errors); i++)
		if (r == -errors[i])
			return true;
	return false;
}

static int path_in(const char *root, const char *name, char out[PATH_MAX])
{
	int n = snprintf(out, PATH_MAX, "%s%s", root, name);

	return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

/*
 * Over what is there, which then needs no room: text of the same length on a full disk still fits.
 * Not by a rename: programs may hold the file open, or have mounted something over it.
 */
static int write_over(const char *path, const char *text, size_t len)
{
	_cleanup_fd_ int fd = open(path, O_WRONLY | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0644);
	struct stat st;

	if (fd < 0)
		return error_errno();
	if (fstat(fd, &st) < 0)
		return error_errno();
	if (!S_ISREG(st.st_mode))
		return 0; /* somebody's device or pipe is not a place for it */
	if (pwrite(fd, text, len, 0) != (ssize_t)len)
		return errno ? error_errno() : -EIO;
	return (size_t)st.st_size > len ? fd_truncate(fd, len) : 0;
}

static int write_file(const char *root, const char *name, const char *text, const char *end)
{
	char path[PATH_MAX], line[160];
	int n = snprintf(line, sizeof(line), "%s%s", text, end);
	int r = path_in(root, name, path);

	if (r == 0)
		r = write_over(path, line, (size_t)n);
	return is_not_writable(r) ? 0 : r;
}

/* --- /etc/hosts ---------------------------------------------------------------------------------
 */

static bool is_ours(const char *line)
{
	return !strncmp(line, HOSTS_ADDR, strlen(HOSTS_ADDR)) &&
	       strchr(" \t", line[strlen(HOSTS_ADDR)]) && line[strlen(HOSTS_ADDR)];
}

/* @text with our line in the place of the old one, or at the end. */
static int rewrite_hosts(char *text, const char *hostname, struct buf *out)
{
	bool done = false;
	char *line;
	int r = 0;

	while (r == 0 && (line = strsep(&text, "\n"))) {
		if (!line[0] && !text)
			break; /* what follows the last newline */
		if (!is_ours(line))
			r = buf_printf(out, "%s\n", line);
		else if (!done)
			r = buf_printf(out, HOSTS_ADDR " %s\n", hostname);
		done |= is_ours(line);
	}
	if (r == 0 && !done)
		r = buf_printf(out, HOSTS_ADDR " %s\n", hostname);
	return r;
}

static int write_hosts(const char *root, const char *hostname)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_buf_ struct buf out = {0};
	char path[PATH_MAX];
	struct stat st;
	int r = path_in(root, HOSTS, path);

	if (r < 0)
		return r;
	if (stat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return 0; /* it does without */
	r = file_read(AT_FDCWD, path, HOSTS_MAX, &text, NULL);
	if (r == 0)
		r = rewrite_hosts(text, hostname, &out);
	if (r == 0)
		r = write_over(path, out.data, out.len);
	return is_not_writable(r) || r == -EFBIG ? 0 : r;
}

/* --- the plan -----------------------------------------------------------------------------------
 */

static const char *name_in(const struct identity *id, size_t name)
{
	return (const char *)id + name;
}

/* Where in @text our line has the host name; -1: nowhere. */
static off_t find_in_hosts(const char *text, const char *hostname)
{
	size_t len = strlen(hostname);

	for (const char *line = text; line;
	     line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		const char *at = line + strlen(HOSTS_ADDR) + 1;

		if (is_ours(line) && !strncmp(at, hostname, len) && at[len] == '\n')
			return at - text;
	}
	return -1;
}

static off_t find_at_start(const char *text, const char *name)
{
	size_t len = strlen(name);

	return !strncmp(text, name, len) && (!text[len] || text[len] == '\n') ? 0 : -1;
}

/* Return: false when the file is writable but does not hold the name where it should. */
static bool plan_file(struct identity_plan *p, const struct identity *now, const char *root,
		      const char *file, size_t name)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_fd_ int fd = -1;
	char path[PATH_MAX];
	struct stat st;
	off_t at;

	if (path_in(root, file, path) < 0)
		return false;
	fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno == EROFS;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
	    file_read(AT_FDCWD, path, HOSTS_MAX, &text, NULL) < 0)
		return false;
	at = !strcmp(file, HOSTS) ? find_in_hosts(text, name_in(now, name))
				  : find_at_start(text, name_in(now, name));
	if (at < 0)
		return false;
	p->slots[p->n++] = (struct identity_slot){.fd = take_fd(fd), .at = at, .name = name};
	return true;
}

void identity_plan(struct identity_plan *p, const struct identity *now, const char *root)
{
	static const struct {
		const char *file;
		size_t name;
	} files[] = {
		{"/run/dorm/sandbox-id", offsetof(struct identity, sandbox_id)},
		{"/etc/machine-id", offsetof(struct identity, machine_id)},
		{"/etc/hostname", offsetof(struct identity, hostname)},
		{HOSTS, offsetof(struct identity, hostname)},
	};
	_Static_assert(ARRAY_SIZE(files) == IDENTITY_SLOTS, "room for each");

	identity_plan_clear(p);
	if (!root || !now->sandbox_id[0] || !now->machine_id[0])
		return;
	p->good = true;
	for (size_t i = 0; p->good && i < ARRAY_SIZE(files); i++)
		p->good = plan_file(p, now, root, files[i].file, files[i].name);
}

void identity_plan_clear(struct identity_plan *p)
{
	for (size_t i = 0; i < p->n; i++)
		fd_close(p->slots[i].fd);
	*p = (struct identity_plan){0};
}

static bool plan_fits(const struct identity_plan *p, const struct identity *from,
		      const struct identity *to)
{
	if (!p || !p->good || strcmp(from->template_id, to->template_id) != 0)
		return false;
	for (size_t i = 0; i < p->n; i++)
		if (strlen(name_in(from, p->slots[i].name)) !=
		    strlen(name_in(to, p->slots[i].name)))
			return false;
	return true;
}

static int plan_follow(const struct identity_plan *p, const struct identity *to)
{
	for (size_t i = 0; i < p->n; i++) {
		const char *name = name_in(to, p->slots[i].name);

		if (pwrite(p->slots[i].fd, name, strlen(name), p->slots[i].at) < 0)
			return error_errno();
	}
	return 0;
}

/* --- all of it ----------------------------------------------------------------------------------
 */

static int make_link(const char *root, const char *target, const char *name)
{
	char path[PATH_MAX];
	int r = path_in(root, name, path);

	if (r == 0 && symlink(target, path) < 0 && errno != EEXIST)
		r = error_errno();
	return is_not_writable(r) ? 0 : r;
}

/* Once, after the boot: /run is fresh then, and lives on in every snapshot. */
static int make_places(const char *root)
{
	static const char *const dirs[] = {"/run/dorm", "/run/e2b"};
	char path[PATH_MAX];
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(dirs); i++) {
		r = path_in(root, dirs[i], path);
		if (r == 0 && mkdir(path, 0755) < 0 && errno != EEXIST)
			r = error_errno();
		r = is_not_writable(r) ? 0 : r;
	}
	if (r == 0)
		r = make_link(root, "../dorm/sandbox-id", "/run/e2b/.E2B_SANDBOX_ID");
	if (r == 0)
		r = make_link(root, "../dorm/template-id", "/run/e2b/.E2B_TEMPLATE_ID");
	return r;
}

static int write_files(const struct identity *from, const struct identity *to, const char *root)
{
	int r = from->sandbox_id[0] ? 0 : make_places(root);

	if (r == 0)
		r = write_file(root, "/run/dorm/sandbox-id", to->sandbox_id, "");
	if (r == 0 && strcmp(from->template_id, to->template_id) != 0)
		r = write_file(root, "/run/dorm/template-id", to->template_id, "");
	if (r == 0 && to->machine_id[0])
		r = write_file(root, "/etc/machine-id", to->machine_id, "\n");
	if (r == 0)
		r = write_file(root, "/etc/hostname", to->hostname, "\n");
	return r == 0 ? write_hosts(root, to->hostname) : r;
}

int identity_apply(const struct identity *from, const struct identity *to,
		   const struct identity_plan *plan, const char *root, bool name_kernel)
{
	int r = 0;

	if (!memcmp(from, to, sizeof(*to)))
		return 0;
	if (root)
		r = plan_fits(plan, from, to) ? plan_follow(plan, to) : write_files(from, to, root);
	if (r == 0 && name_kernel && sethostname(to->hostname, strlen(to->hostname)) < 0)
		r = error_errno();
	return r;
}
