/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/spawn.h"

#define KEEP		2
#define PRUNE_MAX	64
#define FILE_MAX_BYTES	(16ull << 30)
#define READ_BYTES	(1u << 20)
#define SEAL		"seal"
#define LOCK_POLL_MS	50
#define STEP_TIMEOUT_MS 300000

struct cache_digest {
	XXH3_state_t *state;
};

void cache_say(struct cache *c, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	if (!c->progress)
		return;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	c->progress(c->userdata, text);
}

/* The last lines of a program's output, on one line, as a person would quote them. */
static void output_end(struct buf *b, char *out, size_t size)
{
	const char *start = b->data ? b->data : "";
	size_t len = b->len;

	while (len > 0 && (start[len - 1] == '\n' || start[len - 1] == ' '))
		len--;
	if (len > size - 1) {
		start += len - (size - 1);
		len = size - 1;
	}
	for (size_t i = 0; i < len; i++)
		out[i] = (unsigned char)start[i] < ' ' ? ' ' : start[i];
	out[len] = 0;
}

int cache_run(struct cache *c, const char *what, const char *cwd, const char *const argv[],
	      struct buf *output)
{
	_cleanup_buf_ struct buf own = {0};
	struct buf *out = output ? output : &own;
	int r, status = 0;
	char tail[200];

	r = spawn_run(argv, cwd, deadline_after_ms(STEP_TIMEOUT_MS), out, &status);
	if (r == -ENOENT) {
		problem_set(c->problem, 500, "%s: there is no program \"%s\"", what, argv[0]);
		problem_hint(c->problem, "run tools/install-deps");
		return error_trace(r);
	}
	if (r < 0) {
		problem_errno(c->problem, r, "%s: %s", what, argv[0]);
		return error_trace(r);
	}
	if (status == 0)
		return 0;
	output_end(out, tail, sizeof(tail));
	problem_set(c->problem, 500, "%s: %s failed (%d): %s", what, argv[0], status, tail);
	return error_trace(-EIO);
}

/* Take the lock. A waiter says so once: making a guest takes seconds. */
static int lock_wait(struct cache *c, uint64_t deadline_ns)
{
	bool said = false;

	while (flock(c->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return error_errno();
		if (deadline_passed(deadline_ns)) {
			problem_set(c->problem, 503, "%s is still being filled by another process",
				    c->dir);
			return error_trace(-ETIMEDOUT);
		}
		if (!said)
			cache_say(c, "waiting for another process that fills %s", c->dir);
		said = true;
		clock_sleep_ms(LOCK_POLL_MS);
	}
	return 0;
}

/* What a crash left in the middle of making. */
static int remove_leftovers(struct cache *c)
{
	_cleanup_dir_ DIR *d = NULL;
	int r = file_opendir(c->dir_fd, ".", &d);
	struct dirent *e;

	if (r < 0)
		return error_trace(r);
	while (r == 0 && (e = readdir(d)))
		if (str_has_prefix(e->d_name, "tmp."))
			r = file_remove_tree(c->dir_fd, e->d_name);
	return error_trace(r);
}

int cache_open(struct cache *c, const char *dir, uint64_t deadline_ns)
{
	int r;

	if (dir[0] != '/' || strlen(dir) >= sizeof(c->dir)) {
		problem_set(c->problem, 400,
			    "cache directory \"%.100s\": not an absolute path of at "
			    "most %zu bytes",
			    dir, sizeof(c->dir) - 1);
		return error_trace(-EINVAL);
	}
	str_copy(c->dir, sizeof(c->dir), dir);
	r = file_mkdir_p(dir, 0755);
	if (r == 0)
		r = c->dir_fd = file_open_dir(AT_FDCWD, dir);
	if (r >= 0) {
		c->lock_fd = openat(c->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
		r = c->lock_fd < 0 ? error_errno() : 0;
	}
	if (r < 0)
		problem_errno(c->problem, r, "cache directory %s", dir);
	if (r == 0)
		r = lock_wait(c, deadline_ns);
	if (r == 0)
		r = remove_leftovers(c);
	return error_trace(r);
}

void cache_close(struct cache *c)
{
	c->lock_fd = fd_close(c->lock_fd);
	c->dir_fd = fd_close(c->dir_fd);
}

struct cache_digest *cache_digest_new(const char *version)
{
	struct cache_digest *d = calloc(1, sizeof(*d));

	if (d)
		d->state = XXH3_createState();
	if (!d || !d->state)
		return cache_digest_free(d);
	(void)XXH3_128bits_reset(d->state); /* fails for NULL only */
	cache_digest_add(d, version, strlen(version));
	return d;
}

struct cache_digest *cache_digest_free(struct cache_digest *d)
{
	if (d) {
		XXH3_freeState(d->state);
		free(d);
	}
	return NULL;
}

void cache_digest_add(struct cache_digest *d, const void *data, size_t len)
{
	uint64_t n = len; /* the length goes in too: "ab","c" differs from "a","bc" */

	(void)XXH3_128bits_update(d->state, &n, sizeof(n));
	(void)XXH3_128bits_update(d->state, data, len);
}

static void hash_text(XXH128_hash_t h, char out[CACHE_DIGEST_LEN + 1])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, h);
	str_hex(&canonical, sizeof(canonical), out);
}

void cache_digest_get(struct cache_digest *d, char out[CACHE_DIGEST_LEN + 1])
{
	hash_text(XXH3_128bits_digest(d->state), out);
}

/* XXH3-128 and size of a file, read in pieces: a root file system has hundreds of megabytes. */
static int hash_file(int dir_fd, const char *name, char hash[CACHE_DIGEST_LEN + 1],
		     uint64_t *ret_len)
{
	_cleanup_fd_ int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *piece = malloc(READ_BYTES);
	XXH3_state_t *state = XXH3_createState();
	uint64_t len = 0;
	ssize_t n = 0;

	if (fd >= 0 && piece && state) {
		(void)XXH3_128bits_reset(state); /* fails for NULL only */
		while ((n = read(fd, piece, READ_BYTES)) > 0 && len <= FILE_MAX_BYTES) {
			(void)XXH3_128bits_update(state, piece, (size_t)n);
			len += (uint64_t)n;
		}
		hash_text(XXH3_128bits_digest(state), hash);
	}
	n = fd < 0 || n < 0 ? error_errno() : !piece || !state ? -ENOMEM : 0;
	XXH3_freeState(state);
	*ret_len = len;
	return n < 0 ? (int)n : len > FILE_MAX_BYTES ? -EFBIG : 0;
}

/* One line of the seal: what @name holds now. */
static int seal_line(int dir_fd, const char *name, struct buf *out)
{
	char hash[CACHE_DIGEST_LEN + 1];
	uint64_t len;
	int r;

	r = hash_file(dir_fd, name, hash, &len);
	if (r < 0)
		return error_trace(r);
	return buf_printf(out, "%s %" PRIu64 " %s\n", hash, len, name);
}

/* Does every line of the seal hold? */
static int seal_verify(int dir_fd)
{
	_cleanup_free_ char *seal = NULL;
	_cleanup_buf_ struct buf now = {0};
	char *line, *save = NULL;
	size_t len;
	int r;

	r = file_read(dir_fd, SEAL, 1 << 20, &seal, &len);
	if (r < 0)
		return r;
	if (len == 0)
		return -EBADMSG;
	for (line = strtok_r(seal, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		const char *name = strrchr(line, ' ');

		if (!name || strchr(name, '/'))
			return -EBADMSG;
		now.len = 0;
		r = seal_line(dir_fd, name + 1, &now);
		if (r < 0)
			return r;
		if (now.len != strlen(line) + 1 || memcmp(now.data, line, now.len - 1))
			return -EBADMSG;
	}
	return 0;
}

static int sync_file(int dir_fd, const char *name)
{
	_cleanup_fd_ int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);

	return fd < 0 || fsync(fd) < 0 ? error_errno() : 0;
}

/* Hash and sync every file, write the seal. */
static int seal_write(int dir_fd)
{
	_cleanup_dir_ DIR *d = NULL;
	_cleanup_buf_ struct buf seal = {0};
	int r = file_opendir(dir_fd, ".", &d);
	struct dirent *e;

	if (r < 0)
		return error_trace(r);
	while (r == 0 && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		r = seal_line(dir_fd, e->d_name, &seal);
		if (r == 0)
			r = sync_file(dir_fd, e->d_name);
	}
	if (r == 0)
		r = file_write_atomic(dir_fd, SEAL, seal.data, seal.len, 0644);
	return error_trace(r);
}

static int artefact_name(char out[128], const char *kind, const char *digest)
{
	int n = snprintf(out, 128, "%s-%s", kind, digest);

	return n < 0 || n >= 128 ? error_trace(-ENAMETOOLONG) : 0;
}

/* c->dir is shorter than half of @ret, names are below 128 bytes: it always fits. */
static void artefact_path(struct cache *c, const char *name, char ret[4096])
{
	(void)snprintf(ret, 4096, "%s/%s", c->dir, name);
}

int cache_find(struct cache *c, const char *kind, const char *digest, char ret[4096])
{
	_cleanup_fd_ int fd = -1;
	char name[128];
	int r;

	r = artefact_name(name, kind, digest);
	if (r < 0)
		return r;
	fd = file_open_dir(c->dir_fd, name);
	if (fd == -ENOENT)
		return CACHE_E_ABSENT;
	if (fd < 0)
		return error_trace(fd);
	r = seal_verify(fd);
	if (r == -EBADMSG || r == -ENOENT || r == -EFBIG) {
		cache_say(c, "%s/%s is damaged; making it again", c->dir, name);
		r = file_remove_tree(c->dir_fd, name);
		return r < 0 ? error_trace(r) : CACHE_E_ABSENT;
	}
	if (r < 0) {
		problem_errno(c->problem, r, "reading %s/%s", c->dir, name);
		return error_trace(r);
	}
	(void)futimens(fd, NULL); /* "last used", for pruning; no matter if it fails */
	artefact_path(c, name, ret);
	return 0;
}

int cache_begin(struct cache *c, const char *kind, char ret[4096])
{
	char name[128];
	int r;

	(void)snprintf(name, sizeof(name), "tmp.%s", kind);
	r = file_remove_tree(c->dir_fd, name);
	if (r == 0 && mkdirat(c->dir_fd, name, 0755) < 0)
		r = error_errno();
	if (r < 0) {
		problem_errno(c->problem, r, "%s/%s", c->dir, name);
		return error_trace(r);
	}
	artefact_path(c, name, ret);
	return 0;
}

void cache_abort(struct cache *c, const char *kind)
{
	char name[128];

	(void)snprintf(name, sizeof(name), "tmp.%s", kind);
	(void)file_remove_tree(c->dir_fd, name); /* the next cache_open() tries again */
}

struct used {
	char name[128];
	uint64_t at_ns;
};

static int used_later_first(const void *a, const void *b)
{
	uint64_t x = ((const struct used *)a)->at_ns, y = ((const struct used *)b)->at_ns;

	return (x < y) - (x > y);
}

/* Remove all but the KEEP last used of @kind; the new one is the last. More than PRUNE_MAX: later.
 */
static int prune(struct cache *c, const char *kind)
{
	_cleanup_dir_ DIR *d = NULL;
	struct used found[PRUNE_MAX];
	int r = file_opendir(c->dir_fd, ".", &d);
	struct dirent *e;
	struct stat st;
	size_t n = 0;

	if (r < 0)
		return error_trace(r);
	while (n < PRUNE_MAX && (e = readdir(d))) {
		const char *rest = str_has_prefix(e->d_name, kind);

		if (!rest || *rest != '-' || fstatat(dirfd(d), e->d_name, &st, 0) < 0)
			continue;
		str_copy(found[n].name, sizeof(found[n].name), e->d_name);
		found[n++].at_ns =
			(uint64_t)st.st_mtim.tv_sec * NSEC_PER_SEC + (uint64_t)st.st_mtim.tv_nsec;
	}
	qsort(found, n, sizeof(*found), used_later_first);
	for (size_t i = KEEP; r == 0 && i < n; i++)
		r = file_remove_tree(c->dir_fd, found[i].name);
	return error_trace(r);
}

int cache_commit(struct cache *c, const char *kind, const char *digest, char ret[4096])
{
	char from[128], to[128];
	int r, fd;

	(void)snprintf(from, sizeof(from), "tmp.%s", kind);
	r = artefact_name(to, kind, digest);
	if (r < 0)
		return r;
	fd = file_open_dir(c->dir_fd, from);
	r = fd < 0 ? fd : seal_write(fd);
	if (r == 0)
		r = file_fsync_dir(fd);
	fd_close(fd);
	if (r == 0)
		r = file_remove_tree(c->dir_fd, to); /* equal inputs: no loss */
	if (r == 0 && renameat(c->dir_fd, from, c->dir_fd, to) < 0)
		r = error_errno();
	if (r == 0)
		r = file_fsync_dir(c->dir_fd);
	if (r == 0)
		r = prune(c, kind);
	if (r < 0) {
		problem_errno(c->problem, r, "%s/%s", c->dir, to);
		return error_trace(r);
	}
	artefact_path(c, to, ret);
	return 0;
}
