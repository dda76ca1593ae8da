/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a VMM sees of the host: the places of system libraries and of QEMU's firmware, and for a
 * QEMU that lies elsewhere (DORM_QEMU, tools/fetch-qemu) the tree that it was unpacked in. A script
 * in place of QEMU needs its shell and what lies beside it, too.
 */
#include "vmm/jail.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/spawn.h"
#include "vmm/vmm.h"

#define MAX_WORDS 512
#define PROBE_MS  5000
#define PROBE_UID "2147483000" /* nobody's; the process ends at once */

static const char *const names[] = {"root", "user", "pids", "namespaces", "filter"};

static_assert(ARRAY_SIZE(names) == JAIL_N_WALLS, "a name for each");

/* Where they are, whichever of these the host has; links (lib64 -> usr/lib64) stay links. */
static const char *const system_places[] = {
	"/usr/lib/x86_64-linux-gnu", "/usr/lib64",	   "/lib",	    "/lib64",
	"/usr/share/qemu",	     "/usr/share/seabios", "/usr/lib/ipxe", "/etc/ld.so.cache",
};

struct words {
	char **all;
	size_t n;
	int error; /* the first one sticks, so the caller looks once */
};

const char *jail_wall_name(enum jail_wall wall)
{
	for (unsigned i = 0; i < JAIL_N_WALLS; i++)
		if (wall == 1u << i)
			return names[i];
	return "?";
}

char **jail_command_free(char **command)
{
	for (char **w = command; w && *w; w++)
		free(*w);
	free(command);
	return NULL;
}

static void jail_command_freep(char ***command)
{
	jail_command_free(*command);
}

static void add(struct words *w, const char *word)
{
	char *s = word ? strdup(word) : NULL;

	if (!s || w->n + 1 >= MAX_WORDS) {
		free(s);
		w->error = w->error ?: -ENOMEM;
		return;
	}
	w->all[w->n++] = s;
}

static void add2(struct words *w, const char *option, const char *value)
{
	add(w, option);
	add(w, value);
}

static void __attribute__((format(printf, 3, 4)))
addf(struct words *w, const char *option, const char *fmt, ...)
{
	_cleanup_free_ char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	va_end(ap);
	add2(w, option, text);
}

/* ---- files ------------------------------------------------------------------------------------
 */

static int try_program(const char *dir, size_t len, const char *name, char ret[PATH_MAX])
{
	_cleanup_free_ char *path = str_printf("%.*s/%s", (int)len, dir, name);

	if (!path)
		return -ENOMEM;
	return access(path, X_OK) == 0 && realpath(path, ret) ? 0 : -errno;
}

/* The file itself: QEMU finds its own data relative to where it is. */
static int find_program(const char *name, char ret[PATH_MAX])
{
	const char *path = getenv("PATH") ?: "/usr/local/bin:/usr/bin:/bin", *end;
	int r = -ENOENT;

	if (strchr(name, '/'))
		return access(name, X_OK) == 0 && realpath(name, ret) ? 0 : -errno;
	for (; r < 0 && *path; path = *end ? end + 1 : end) {
		end = strchrnul(path, ':');
		r = try_program(path, (size_t)(end - path), name, ret);
	}
	return r;
}

static bool is_script(const char *path)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	char start[2];

	return fd >= 0 && fd_read_full(fd, start, sizeof(start)) == 0 && start[0] == '#' &&
	       start[1] == '!';
}

/* "/opt/q/root/usr/bin/qemu" is in the tree /opt/q/root; so are its libraries. */
static void add_tree(struct words *w, const char *program)
{
	const char *bin = strstr(program, "/usr/bin/");

	if (bin && bin != program)
		addf(w, "--try-read", "%.*s/usr", (int)(bin - program), program);
}

static void add_script(struct words *w, const char *program)
{
	const char *slash = strrchr(program, '/');

	add2(w, "--try-read", "/bin");
	add2(w, "--try-read", "/usr/bin");
	if (slash > program)
		addf(w, "--read", "%.*s", (int)(slash - program), program);
}

static void add_program(struct words *w, const char *program, const struct vmm_config *config)
{
	for (size_t i = 0; i < ARRAY_SIZE(system_places); i++)
		add2(w, "--try-read", system_places[i]);
	add_tree(w, program);
	if (is_script(program))
		add_script(w, program);
	else
		add2(w, "--read", program);
	add2(w, "--read", config->preload);
}

static void add_disk(struct words *w, const struct vmm_disk *d)
{
	const char *slash = strrchr(d->path, '/');

	for (size_t i = 0; i < d->n_layers; i++)
		add2(w, "--read", d->layers[i].path);
	if (d->read_only)
		add2(w, "--read", d->path);
	else if (slash > d->path) /* later ones come beside it */
		addf(w, "--write", "%.*s", (int)(slash - d->path), d->path);
}

static void add_files(struct words *w, const char *program, const struct vmm_config *config)
{
	static const char *const devices[] = {"/dev/null", "/dev/zero", "/dev/random",
					      "/dev/urandom"};

	add_program(w, program, config);
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
		add2(w, "--device", devices[i]);
	if (config->accel && !strcmp(config->accel, "kvm"))
		add2(w, "--device", "/dev/kvm");
	add2(w, "--directory", config->work_dir);
	for (uint32_t i = 0; i < config->n_disks; i++)
		add_disk(w, &config->disks[i]);
	if (config->kernel)
		add2(w, "--read", config->kernel);
	if (config->initramfs)
		add2(w, "--read", config->initramfs);
	add2(w, "--cwd", config->work_dir);
}

/* ---- the whole --------------------------------------------------------------------------------
 */

static void add_walls(struct words *w, const struct vmm_jail *jail, const char *program,
		      const struct vmm_config *config)
{
	add2(w, "--oom-first", "--userfaultfd");
	if (config->pager_socket)
		add2(w, "--pager", config->pager_socket);
	if (jail->max_file)
		addf(w, "--max-file", "%llu", (unsigned long long)jail->max_file);
	if (jail->walls & JAIL_NAMESPACES)
		add(w, "--namespaces");
	if (jail->walls & JAIL_USER)
		addf(w, "--user", "%u", jail->uid);
	if (jail->walls & JAIL_FILTER)
		add(w, "--filter");
	if (!(jail->walls & JAIL_ROOT))
		return;
	add2(w, "--root", jail->tag);
	add_files(w, program, config);
}

int jail_command(const struct vmm_jail *jail, const struct vmm_config *config,
		 const char *const *argv, struct problem *problem, char ***ret)
{
	_cleanup_(jail_command_freep) char **all = calloc(MAX_WORDS, sizeof(*all));
	struct words w = {.all = all};
	char program[PATH_MAX];
	int r = find_program(argv[0], program);

	if (r < 0) {
		problem_errno(problem, r, "cannot run %s", argv[0]);
		problem_hint(problem, "install qemu-system-x86, or set DORM_QEMU to the program");
		return error_trace(r);
	}
	if (!all)
		return -ENOMEM;
	add(&w, jail->program);
	add_walls(&w, jail, program, config);
	add2(&w, "--", program);
	for (size_t i = 1; argv[i]; i++)
		add(&w, argv[i]);
	if (w.error)
		return error_trace(w.error);
	*ret = take_ptr(all);
	return 0;
}

/* ---- what the host has ------------------------------------------------------------------------
 */

static bool probe_one(const char *program, const char *const *options, bool pids, char why[160])
{
	const char *argv[16] = {program, "--check"};
	_cleanup_buf_ struct buf out = {0};
	const char *text;
	int status = 0, r;

	for (size_t i = 0; options[i]; i++)
		argv[2 + i] = options[i];
	r = spawn_run_isolated(argv, pids, deadline_after_ms(PROBE_MS), &out, &status);
	why[0] = 0;
	if (r == 0 && status == 0)
		return true;
	text = out.data ? str_has_prefix(out.data, "dorm-jail: ") : NULL;
	str_copy(why, 160, r < 0 ? strerrordesc_np(-r) : text ? text : "dorm-jail failed");
	why[strcspn(why, "\n")] = 0;
	return false;
}

unsigned jail_probe(const char *program, char why[JAIL_N_WALLS][160])
{
	static const char *const none[] = {NULL}, *const root[] = {"--root", "dorm-probe", NULL},
				 *const user[] = {"--root", "dorm-probe", "--user", PROBE_UID,
						  NULL},
				 *const namespaces[] = {"--namespaces", NULL},
				 *const filter[] = {"--filter", NULL};
	static const char *const *const options[] = {root, user, none, namespaces, filter};
	unsigned walls = 0;

	for (unsigned i = 0; i < JAIL_N_WALLS; i++)
		if (probe_one(program, options[i], 1u << i == JAIL_PIDS, why[i]))
			walls |= 1u << i;
	return walls;
}
