/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest.c - three artefacts, each made from the one before and from what the host has
 *
 *     kernel     the distribution's package          vmlinuz, modules.cpio
 *     initramfs  modules.cpio + dorm-agent           initramfs.cpio
 *     rootfs     the host's static busybox           root.erofs
 *
 * The initramfs is two cpio archives, one after the other, which the kernel unpacks in turn: that
 * of the modules, then that with /init. It is not compressed: under emulation, unpacking costs more
 * than reading a megabyte more.
 */
#include "guest/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "guest/cache.h"
#include "guest/cpio.h"
#include "guest/program.h"
#include "guest/kernel.h"
#include "guest/rootfs.h"

/* Raise when the initramfs made from the same kernel and agent changes. */
#define BUILDER_VERSION	  "initramfs 1"

#define AGENT_MAX_BYTES	  (256u << 20)
#define MODULES_MAX_BYTES (256u << 20)
#define LOCK_TIMEOUT_MS	  600000
#define LAST		  "last" /* a line each: struct guest, and which agent that was with */
#define STAMP_SIZE	  64

/* The part of the initramfs that is ours; the agent mounts the rest. */
static int add_init(struct buf *out, const char *agent, size_t agent_len)
{
	static const char *const dirs[] = {"dev", "proc", "run", "sandbox", "sys", "tmp"};
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(dirs); i++)
		r = cpio_dir(out, dirs[i], 0755);
	/* The kernel opens it for init's standard streams before init could mount anything. */
	if (r == 0)
		r = cpio_char_device(out, "dev/console", 0600, 5, 1);
	if (r == 0)
		r = cpio_file(out, "init", 0755, agent, agent_len);
	return r < 0 ? r : cpio_end(out);
}

static int make_initramfs(struct cache *c, const struct kernel *k, const char *agent,
			  size_t agent_len)
{
	_cleanup_fd_ int kernel_fd = file_open_dir(AT_FDCWD, k->dir), fd = -1;
	_cleanup_free_ char *modules = NULL;
	struct buf modules_then_init = {0};
	char dir[4096];
	size_t len;
	int r;

	r = cache_begin(c, "initramfs", dir);
	if (r < 0)
		return r;
	fd = file_open_dir(AT_FDCWD, dir);
	r = kernel_fd < 0 ? kernel_fd : fd < 0 ? fd : 0;
	if (r == 0)
		r = file_read(kernel_fd, "modules.cpio", MODULES_MAX_BYTES, &modules, &len);
	if (r == 0)
		r = buf_append(&modules_then_init, modules, len);
	if (r == 0)
		r = add_init(&modules_then_init, agent, agent_len);
	if (r == 0)
		r = file_write_atomic(fd, "initramfs.cpio", modules_then_init.data,
				      modules_then_init.len, 0644);
	buf_deinit(&modules_then_init);
	if (r < 0)
		problem_errno(c->problem, r, "making the initramfs in %s", dir);
	return error_trace(r);
}

static int initramfs_digest(const struct kernel *k, const char *agent, size_t agent_len,
			    char out[CACHE_DIGEST_LEN + 1])
{
	struct cache_digest *d = cache_digest_new(BUILDER_VERSION);

	if (!d)
		return error_trace(-ENOMEM);
	cache_digest_add(d, k->digest, strlen(k->digest));
	cache_digest_add(d, agent, agent_len);
	cache_digest_get(d, out);
	cache_digest_free(d);
	return 0;
}

static int read_agent(struct cache *c, const char *path, char **ret, size_t *ret_len)
{
	int r = file_read(AT_FDCWD, path, AGENT_MAX_BYTES, ret, ret_len);

	if (r < 0) {
		problem_errno(c->problem, r, "the guest's agent %s", path);
		return error_trace(r);
	}
	if (!program_is_static(*ret, *ret_len)) {
		problem_set(c->problem, 500, "the guest's agent %s is not a static x86-64 program",
			    path);
		return error_trace(-ENOEXEC);
	}
	return 0;
}

static int initramfs_prepare(struct cache *c, const struct kernel *k, const char *agent_path,
			     char ret[4096])
{
	_cleanup_free_ char *agent = NULL;
	char digest[CACHE_DIGEST_LEN + 1];
	size_t len;
	int r;

	r = read_agent(c, agent_path, &agent, &len);
	if (r == 0)
		r = initramfs_digest(k, agent, len, digest);
	if (r == 0)
		r = cache_find(c, "initramfs", digest, ret);
	if (r != CACHE_E_ABSENT)
		return r;
	r = make_initramfs(c, k, agent, len);
	if (r == 0)
		r = cache_commit(c, "initramfs", digest, ret);
	if (r < 0)
		cache_abort(c, "initramfs");
	return error_trace(r);
}

static int join(char out[4096], const char *dir, const char *name)
{
	int n = snprintf(out, 4096, "%s/%s", dir, name);

	return n < 0 || n >= 4096 ? error_trace(-ENAMETOOLONG) : 0;
}

/* ---- what there was the last time -------------------------------------------------------------
 */

/* Which program it is, as far as that can be told without reading it. */
static int agent_stamp(const char *agent, char ret[STAMP_SIZE])
{
	struct stat st;

	if (stat(agent, &st) < 0)
		return error_errno();
	(void)snprintf(ret, STAMP_SIZE, "%lld %lld.%09ld", (long long)st.st_size, /* fits */
		       (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	return 0;
}

/* Only a help: a cache without it is as good. */
static void remember(struct cache *c, const char *agent, const struct guest *g)
{
	_cleanup_free_ char *text = NULL;
	char stamp[STAMP_SIZE];

	if (agent_stamp(agent, stamp) == 0)
		text = str_printf("%s\n%s\n%s\n%s\n%s\n", g->kernel, g->initramfs, g->rootfs,
				  g->kernel_version, stamp);
	if (text)
		(void)file_write_atomic(c->dir_fd, LAST, text, strlen(text), 0644);
}

/* The next line of @rest, into @ret. */
static int take_line(char **rest, char *ret, size_t size)
{
	const char *line = strsep(rest, "\n");

	if (!line || !*line || strlen(line) >= size)
		return -ENOENT;
	str_copy(ret, size, line);
	return 0;
}

/* Return: 0; -ENOENT also when it is no good */
static int parse_last(char *text, struct guest *ret, char stamp[STAMP_SIZE])
{
	int r = take_line(&text, ret->kernel, sizeof(ret->kernel));

	if (r == 0)
		r = take_line(&text, ret->initramfs, sizeof(ret->initramfs));
	if (r == 0)
		r = take_line(&text, ret->rootfs, sizeof(ret->rootfs));
	if (r == 0)
		r = take_line(&text, ret->kernel_version, sizeof(ret->kernel_version));
	return r ?: take_line(&text, stamp, STAMP_SIZE);
}

int guest_last(const char *cache_dir, const char *agent, struct guest *ret)
{
	_cleanup_fd_ int dir = file_open_dir(AT_FDCWD, cache_dir);
	_cleanup_free_ struct guest *g = calloc(1, sizeof(*g));
	char stamp[STAMP_SIZE], now[STAMP_SIZE];
	_cleanup_free_ char *text = NULL;

	if (!g)
		return -ENOMEM;
	if (dir < 0 || file_read(dir, LAST, 4 * sizeof(g->kernel), &text, NULL) < 0 ||
	    parse_last(text, g, stamp) < 0 || access(g->kernel, R_OK) < 0 ||
	    access(g->initramfs, R_OK) < 0)
		return -ENOENT;
	*ret = *g;
	return agent_stamp(agent, now) == 0 && strcmp(now, stamp) != 0;
}

/* ---- all of it --------------------------------------------------------------------------------
 */

int guest_prepare(const char *cache_dir, const char *agent, guest_progress progress, void *userdata,
		  struct problem *problem, struct guest *ret)
{
	_cleanup_cache_ struct cache c = CACHE_INIT;
	struct kernel kernel = {0};
	struct rootfs rootfs = {0};
	struct guest g = {0};
	char initramfs[4096];
	int r;

	c.progress = progress;
	c.userdata = userdata;
	c.problem = problem;
	r = cache_open(&c, cache_dir, deadline_after_ms(LOCK_TIMEOUT_MS));
	if (r == 0)
		r = kernel_prepare(&c, &kernel);
	if (r == 0)
		r = initramfs_prepare(&c, &kernel, agent, initramfs);
	if (r == 0)
		r = rootfs_prepare(&c, &rootfs);
	if (r == 0)
		r = join(g.kernel, kernel.dir, "vmlinuz");
	if (r == 0)
		r = join(g.initramfs, initramfs, "initramfs.cpio");
	if (r == 0)
		r = join(g.rootfs, rootfs.dir, "root.erofs");
	if (r < 0) {
		problem_errno(problem, r, "preparing what guests boot from, in %s", cache_dir);
		return error_trace(r);
	}
	str_copy(g.kernel_version, sizeof(g.kernel_version), kernel.release);
	remember(&c, agent, &g);
	*ret = g;
	return 0;
}

/*
 * Every option has a reason; those without a comment are needed in any case.
 * Left out on purpose: init_on_free=1, which would write all of the memory at boot (1.2 s).
 */
char *guest_cmdline(uint64_t tsc_khz)
{
	static const char common[] =
		"console=ttyS0 quiet panic=-1"
		" reboot=t" /* by triple fault, which ends the VM; microvm has no other way */
		" nokaslr"  /* copies of one snapshot share a layout anyway */
		" mitigations=off" /* a guest is one domain of trust; the host has its own */
		" psi=0"	   /* accounting at every switch that nobody reads */
		" init_on_alloc=0" /* fresh memory is zero; do not touch it twice */
		" no_timer_check"  /* fails by chance where a virtual CPU may stand still */
		" rcupdate.rcu_expedited=1" /* loading modules waits for grace periods */
		" cryptomgr.notests"	    /* no self-tests under emulation */
		" random.trust_cpu=on"	    /* random numbers are ready before init runs */
		" 8250.nr_uarts=1"	    /* do not look for three more */
		" i8042.noaux i8042.nokbd"; /* nor for a mouse and a keyboard */

	/*
	 * Measuring the TSC against the PIT fails under load, and then the delay calibration waits
	 * for a PIT interrupt that hardware-reduced ACPI does not have: the boot hangs for ever.
	 */
	if (tsc_khz)
		return str_printf("%s tsc_early_khz=%" PRIu64 " tsc=reliable", common, tsc_khz);
	return str_printf("%s", common);
}
