/* SPDX-License-Identifier: Apache-2.0 */
/*
 * debian.c - which packages, from where, in which versions; then mmdebstrap; then tidying
 *
 * apt resolves the versions on the host: a simulated installation into nothing, from the host's own
 * lists, restricted to Debian's archives. mmdebstrap is given these very lists and does not update
 * them, so it installs exactly what was resolved. When the mirror no longer has it, the lists are
 * updated and all begins again, once.
 *
 * Resolving takes two seconds; the outcome is kept in the cache for as long as the lists are the
 * same.
 */
#include "guest/debian.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "guest/apt-sources.h"
#include "guest/erofs.h"
#include "guest/finish.h"
#include "guest/tree.h"

/* Raise when what is made of the same packages changes. */
#define BUILDER_VERSION	 "debian 1"

#define FALLBACK_RELEASE "bookworm"
#define APT_LISTS	 "/var/lib/apt/lists"
#define RESOLVED	 "debian-resolved" /* "<mtime of APT_LISTS> <inputs> <versions>" */
#define FILE_MAX	 (1u << 20)
#define MAX_ARGS	 96

/* Beside what is essential, and apt. Every one has its reason. */
static const char *const packages[] = {
	"apt",
	"attr", /* setfattr */
	"bash",
	"ca-certificates",
	"curl",
	"git", /* with its daemon */
	"iproute2",
	"libnss-myhostname", /* a sandbox's name resolves, whatever it is: sudo asks for it */
	"ncurses-bin",	     /* tput */
	"procps",
	"python-is-python3",
	"python3",
	"sudo",
	NULL,
};

static const char *const excluded[] = {
	"/usr/share/doc/*",
	"/usr/share/man/*",
	"/usr/share/info/*",
	"/usr/share/locale/*",
	"/usr/share/lintian/*",
	"/usr/share/bug/*",
	NULL,
};

struct making {
	struct cache *c;
	const struct runner *r;
	char release[64];
	struct buf list, deb822; /* the sources, in both styles */
	char inputs[CACHE_DIGEST_LEN + 1], digest[CACHE_DIGEST_LEN + 1];
};

/* ---- sources ----------------------------------------------------------------------------------
 */

/* The value of NAME=value or NAME="value" in os-release. */
static bool os_release(const char *text, const char *name, char *out, size_t size)
{
	size_t n = strlen(name);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, name, n) || line[n] != '=')
			continue;
		line += n + 1;
		line += *line == '"';
		(void)snprintf(out, size, "%.*s", (int)strcspn(line, "\"\n"), line);
		return *out && !out[strspn(out, "abcdefghijklmnopqrstuvwxyz0123456789-")];
	}
	return false;
}

static void find_release(struct making *m)
{
	_cleanup_free_ char *text = NULL;
	char id[64];

	str_copy(m->release, sizeof(m->release), FALLBACK_RELEASE);
	if (file_read(AT_FDCWD, "/etc/os-release", FILE_MAX, &text, NULL) < 0)
		return;
	if (os_release(text, "ID", id, sizeof(id)) && !strcmp(id, "debian"))
		if (!os_release(text, "VERSION_CODENAME", m->release, sizeof(m->release)))
			str_copy(m->release, sizeof(m->release), FALLBACK_RELEASE);
}

static int read_source(struct making *m, int dir_fd, const char *name)
{
	_cleanup_free_ char *text = NULL;

	if (file_read(dir_fd, name, FILE_MAX, &text, NULL) < 0)
		return 0; /* apt would say so; others may be enough */
	if (str_has_suffix(name, ".list"))
		return apt_sources_filter_list(text, m->release, &m->list);
	if (str_has_suffix(name, ".sources"))
		return apt_sources_filter_deb822(text, m->release, &m->deb822);
	return 0;
}

static int name_order(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int read_sources(struct making *m)
{
	struct dirent **names = NULL;
	int n, r = read_source(m, AT_FDCWD, "/etc/apt/sources.list");

	n = scandir("/etc/apt/sources.list.d", &names, NULL, name_order);
	for (int i = 0; i < n; i++) {
		_cleanup_free_ char *path =
			str_printf("/etc/apt/sources.list.d/%s", names[i]->d_name);

		if (r == 0)
			r = path ? read_source(m, AT_FDCWD, path) : -ENOMEM;
		free(names[i]);
	}
	free(names);
	if (r == 0 && !m->list.len && !m->deb822.len) {
		problem_set(m->c->problem, 500, "apt's sources name no archive of Debian %s",
			    m->release);
		problem_hint(m->c->problem, "the Debian base is made from the archives that this "
					    "host's apt uses: add one to /etc/apt/sources.list");
		return -ENOENT;
	}
	return r;
}

/* The files that apt and mmdebstrap are pointed to, in @dir. */
static int write_sources(const struct making *m, const char *dir)
{
	_cleanup_fd_ int fd = -1;
	int r = file_mkdir_p(dir, 0755);

	if (r == 0)
		r = fd = file_open_dir(AT_FDCWD, dir);
	if (r >= 0 && m->list.len)
		r = file_write_atomic(fd, "debian.list", m->list.data, m->list.len, 0644);
	if (r >= 0 && m->deb822.len)
		r = file_write_atomic(fd, "debian.sources", m->deb822.data, m->deb822.len, 0644);
	return r < 0 ? error_trace(r) : 0;
}

/* ---- versions ---------------------------------------------------------------------------------
 */

static uint64_t lists_stamp(void)
{
	struct stat st;

	if (stat(APT_LISTS, &st) < 0)
		return 0;
	return (uint64_t)st.st_mtim.tv_sec * NSEC_PER_SEC + (uint64_t)st.st_mtim.tv_nsec;
}

/* All but the versions. */
static int digest_inputs(struct making *m)
{
	struct cache_digest *d = cache_digest_new(BUILDER_VERSION);

	if (!d)
		return -ENOMEM;
	for (size_t i = 0; packages[i]; i++)
		cache_digest_add(d, packages[i], strlen(packages[i]));
	for (size_t i = 0; excluded[i]; i++)
		cache_digest_add(d, excluded[i], strlen(excluded[i]));
	cache_digest_add(d, EROFS_TIME, strlen(EROFS_TIME));
	cache_digest_add(d, m->release, strlen(m->release));
	cache_digest_add(d, m->list.data, m->list.len);
	cache_digest_add(d, m->deb822.data, m->deb822.len);
	cache_digest_get(d, m->inputs);
	cache_digest_free(d);
	return 0;
}

/* What "apt-get -s" would do: only its lines "Inst NAME (VERSION ..." matter. */
static int digest_versions(struct making *m, char *text)
{
	struct cache_digest *d = cache_digest_new(m->inputs);
	char *rest = text, *line;
	unsigned n = 0;

	if (!d)
		return -ENOMEM;
	while ((line = strsep(&rest, "\n"))) {
		char name[128], version[128];

		if (sscanf(line, "Inst %127s (%127s", name, version) != 2)
			continue;
		cache_digest_add(d, name, strlen(name));
		cache_digest_add(d, version, strlen(version));
		n++;
	}
	cache_digest_get(d, m->digest);
	cache_digest_free(d);
	return n > 20 ? 0 : -ENODATA; /* fewer are not even what is essential */
}

static int simulate(struct making *m, const char *sources, const char *status)
{
	_cleanup_free_ char *parts = str_printf("Dir::Etc::sourceparts=%s", sources);
	_cleanup_free_ char *state = str_printf("Dir::State::status=%s", status);
	_cleanup_buf_ struct buf out = {0};
	const char *argv[MAX_ARGS] = {"apt-get",
				      "-s",
				      "-q",
				      "-o",
				      "Dir::Etc::sourcelist=/dev/null",
				      "-o",
				      parts,
				      "-o",
				      state,
				      "-o",
				      "APT::Install-Recommends=0",
				      "install",
				      "?essential",
				      "?priority(required)"};
	size_t n = 14;
	struct runner quiet = {.cancelled = m->r->cancelled, .userdata = m->r->userdata};
	int r;

	if (!parts || !state)
		return -ENOMEM;
	for (size_t i = 0; packages[i]; i++)
		argv[n++] = packages[i];
	r = runner_run(&quiet, &(struct runner_command){
				       .what = "resolving packages", .argv = argv, .output = &out});
	return r < 0 || !out.data ? -ENODATA : digest_versions(m, out.data);
}

static int update_lists(struct making *m)
{
	static const char *const argv[] = {
		"apt-get", "-q", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3",
		"update",  NULL};

	runner_say(m->r, "updating the package lists");
	return runner_run(m->r, &(struct runner_command){.what = "updating the package lists",
							 .argv = argv,
							 .quiet = true});
}

static bool read_resolved(struct making *m)
{
	_cleanup_free_ char *text = NULL;
	char inputs[CACHE_DIGEST_LEN + 1], digest[CACHE_DIGEST_LEN + 1];
	uint64_t stamp;

	if (file_read(m->c->dir_fd, RESOLVED, 1024, &text, NULL) < 0 ||
	    sscanf(text, "%" SCNu64 " %32[0-9a-f] %32[0-9a-f]", &stamp, inputs, digest) != 3 ||
	    stamp != lists_stamp() || strcmp(inputs, m->inputs) ||
	    strlen(digest) != CACHE_DIGEST_LEN)
		return false;
	memcpy(m->digest, digest, sizeof(digest));
	return true;
}

static int write_resolved(struct making *m)
{
	_cleanup_buf_ struct buf b = {0};
	int r = buf_printf(&b, "%" PRIu64 " %s %s\n", lists_stamp(), m->inputs, m->digest);

	return r < 0 ? r : file_write_atomic(m->c->dir_fd, RESOLVED, b.data, b.len, 0644);
}

/* @fresh: whatever is known, ask for new lists first */
static int resolve(struct making *m, bool fresh)
{
	_cleanup_free_ char *sources = NULL, *status = NULL;
	char dir[4096];
	int r;

	if (!fresh && read_resolved(m))
		return 0;
	r = cache_begin(m->c, "debian-resolve", dir);
	sources = str_printf("%s/sources", dir);
	status = str_printf("%s/status", dir);
	if (r == 0 && (!sources || !status))
		r = -ENOMEM;
	if (r == 0)
		r = write_sources(m, sources);
	if (r == 0)
		r = file_replace(AT_FDCWD, status, "", 0, 0644);
	if (r == 0 && fresh)
		r = update_lists(m);
	if (r == 0)
		r = simulate(m, sources, status);
	if (r == -ENODATA && !fresh) { /* no lists yet */
		r = update_lists(m);
		if (r == 0)
			r = simulate(m, sources, status);
	}
	if (r == -ENODATA)
		problem_set(m->c->problem, 500, "apt cannot find the packages of Debian %s",
			    m->release);
	cache_abort(m->c, "debian-resolve");
	return r < 0 ? r : write_resolved(m);
}

/* ---- making -----------------------------------------------------------------------------------
 */

/* In a process tree of its own, so that all of it ends when we do. */
static size_t start_arguments(const char **argv)
{
	const char *const head[] = {"bwrap", "--dev-bind", "/", "/", "--proc", "/proc",
				    "--unshare-pid", "--die-with-parent", "--cap-add", "ALL", "--",
				    runner_busybox(), "sh", "-c", RUNNER_GUARD, "guard",
				    "mmdebstrap", "--mode=root", "--variant=minbase",
				    "--format=directory", "--aptopt=Acquire::Retries \"3\"",
				    "--aptopt=APT::Install-Recommends \"0\"",
				    /* exactly what was resolved */
				    "--setup-hook=mkdir -p \"$1" APT_LISTS "\" && cp -a " APT_LISTS
				    "/. \"$1" APT_LISTS "/\"",
				    "--skip=update"};

	memcpy(argv, head, sizeof(head));
	return ARRAY_SIZE(head);
}

static int run_mmdebstrap(struct making *m, const char *work, const char *root)
{
	_cleanup_free_ char *include = NULL, *list = NULL, *deb822 = NULL, *tmp = NULL;
	char exclude[ARRAY_SIZE(excluded)][96];
	_cleanup_buf_ struct buf names = {0};
	const char *argv[MAX_ARGS],
		*env[] = {"SOURCE_DATE_EPOCH=" EROFS_TIME, "LC_ALL=C.UTF-8", NULL, NULL};
	size_t n = start_arguments(argv);

	for (size_t i = 0; packages[i]; i++)
		if (buf_printf(&names, "%s%s", i ? "," : "", packages[i]) < 0)
			return -ENOMEM;
	include = str_printf("--include=%s", names.data);
	list = str_printf("%s/sources/debian.list", work);
	deb822 = str_printf("%s/sources/debian.sources", work);
	tmp = str_printf("TMPDIR=%s", work);
	if (!include || !list || !deb822 || !tmp)
		return -ENOMEM;
	env[2] = tmp;
	for (size_t i = 0; excluded[i]; i++) {
		(void)snprintf(exclude[i], sizeof(exclude[i]), "--dpkgopt=path-exclude=%s",
			       excluded[i]);
		argv[n++] = exclude[i];
	}
	argv[n++] = include;
	argv[n++] = m->release;
	argv[n++] = root;
	if (m->list.len)
		argv[n++] = list;
	if (m->deb822.len)
		argv[n++] = deb822;
	argv[n] = NULL;
	runner_say(m->r, "making the Debian base (%s) with mmdebstrap; this takes a minute, once",
		   m->release);
	return runner_run(m->r, &(struct runner_command){.what = "making the Debian base",
							 .argv = argv,
							 .env = env,
							 .guarded = true});
}

/* A fixed answer for what debconf and ldconfig leave behind differently from time to time. */
static int finish(struct making *m, const char *root)
{
	_cleanup_fd_ int fd = file_open_dir(AT_FDCWD, root);
	int r = fd < 0 ? fd : finish_add(m->r, fd);

	if (r == 0)
		finish_tidy(fd);
	return r;
}

static int make(struct making *m, const char *dir)
{
	_cleanup_free_ char *work = str_printf("%s/work", dir);
	_cleanup_free_ char *sources = str_printf("%s/work/sources", dir);
	_cleanup_free_ char *root = str_printf("%s/work/root", dir);
	_cleanup_free_ char *image = str_printf("%s/root.erofs", dir);
	int r;

	if (!work || !sources || !root || !image)
		return -ENOMEM;
	/* set-user-id programs lie in there for a while */
	r = mkdir(work, 0700) < 0 ? error_errno() : 0;
	if (r == 0)
		r = write_sources(m, sources);
	if (r == 0)
		r = run_mmdebstrap(m, work, root);
	if (r == 0)
		r = finish(m, root);
	if (r == 0)
		r = erofs_make(m->r, root, image);
	return r < 0 ? r : file_remove_tree(AT_FDCWD, work);
}

static int make_artefact(struct making *m, char ret[4096])
{
	struct problem first = PROBLEM_INIT, *problem = m->c->problem;
	struct runner r = *m->r;
	char dir[4096];
	int e = cache_begin(m->c, "debian", dir);

	if (e < 0)
		return e;
	r.problem = &first;
	r.watch_dir = m->c->dir;
	m->r = &r;
	e = make(m, dir);
	if (e == -EIO) { /* the mirror may have moved on since the lists were fetched */
		runner_say(&r, "%s", first.message);
		r.problem = problem;
		e = resolve(m, true);
		if (e == 0)
			e = cache_begin(m->c, "debian", dir);
		if (e == 0)
			e = make(m, dir);
	}
	if (e == 0)
		e = cache_commit(m->c, "debian", m->digest, ret);
	if (e < 0) {
		if (problem && !problem_is_set(problem))
			*problem = first;
		cache_abort(m->c, "debian");
	}
	return e;
}

static int prepare(struct making *m, struct debian *ret)
{
	int r;

	find_release(m);
	r = read_sources(m);
	if (r == 0)
		r = digest_inputs(m);
	if (r == 0)
		r = resolve(m, false);
	if (r == 0)
		r = cache_find(m->c, "debian", m->digest, ret->dir);
	if (r != CACHE_E_ABSENT)
		return r;
	if (geteuid() != 0) {
		problem_set(m->c->problem, 403, "making a root file system needs root");
		return -EPERM;
	}
	return make_artefact(m, ret->dir);
}

int debian_prepare(struct cache *c, const struct runner *r, struct debian *ret)
{
	struct making m = {.c = c, .r = r};
	int e = prepare(&m, ret);

	buf_deinit(&m.list);
	buf_deinit(&m.deb822);
	if (e < 0)
		problem_errno(c->problem, e, "making the Debian base");
	return e < 0 ? error_trace(e) : 0;
}
