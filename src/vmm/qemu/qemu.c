/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qemu.c - the QEMU driver
 *
 * Files in the work directory: qmp.sock and agent.sock, which we open and QEMU inherits as
 * listening sockets, and vmm.log, its standard error. Because the sockets listen before QEMU runs,
 * connecting never has to be tried again: the connection waits in the backlog until QEMU accepts
 * it, and ends at once when QEMU dies before that.
 *
 * A restore: the device state goes in through a socket pair whose other end QEMU gets by "getfd"
 * (plain files are no longer taken for that), "migrate-incoming" reads it. A QEMU that dislikes the
 * state does not answer but ends with status 1 and a line on standard error.
 */
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "sys/spawn.h"
#include "vmm/driver.h"
#include "vmm/jail.h"
#include "vmm/preload/dorm-vmm.h"
#include "vmm/qemu/block-node.h"
#include "vmm/qemu/command-line.h"
#include "vmm/qemu/qmp.h"

#define LOG_NAME	"vmm.log"
#define CONSOLE_MAX	65536 /* the size of the ring buffer on the command line */
#define VERSION_WAIT_MS 10000
#define FDSETS_MAX	16 /* a guest that stands still is saved once, or a few times */

struct qemu {
	struct qmp *qmp;     /* NULL or broken: connect anew */
	json_int_t n_fdsets; /* files that device state was saved into, since it ran last */
	struct buf console;  /* reading the ring empties it, so what was read is kept here */
};

static const char *program(void)
{
	const char *s = getenv("DORM_QEMU");

	return s && *s ? s : "qemu-system-x86_64";
}

static int qemu_version(char ret[64], struct problem *problem)
{
	const char *const argv[] = {program(), "--version", NULL};
	_cleanup_buf_ struct buf out = {0};
	char version[64];
	int status = 0;
	const char *p;
	int r = spawn_run(argv, NULL, deadline_after_ms(VERSION_WAIT_MS), &out, &status);

	if (r < 0) {
		problem_errno(problem, r, "cannot run %s", program());
		problem_hint(problem, "install qemu-system-x86, or set DORM_QEMU to the program");
		return r;
	}
	p = out.data ? strstr(out.data, "QEMU emulator version ") : NULL;
	if (status || !p || sscanf(p, "QEMU emulator version %63[^ \n(]", version) != 1) {
		problem_set(problem, 500, "%s --version does not look like QEMU's (exit status %d)",
			    program(), status);
		return error_trace(-EPROTO);
	}
	memcpy(ret, version, sizeof(version));
	return 0;
}

static void qemu_detach(struct vmm *v)
{
	struct qemu *q = v->driver;

	if (!q)
		return;
	qmp_free(q->qmp);
	buf_deinit(&q->console);
	free(q);
	v->driver = NULL;
}

static int connect_monitor(struct vmm *v, uint64_t deadline_ns)
{
	_cleanup_free_ char *path = str_printf("%s/qmp.sock", v->work_dir);
	struct qemu *q = v->driver;

	if (!path)
		return -ENOMEM;
	q->qmp = qmp_free(q->qmp);
	return qmp_connect(path, deadline_ns, &q->qmp);
}

static int qemu_attach(struct vmm *v, uint64_t deadline_ns, struct problem *problem)
{
	struct qemu *q;
	int r;

	v->driver = q = calloc(1, sizeof(*q));
	if (!q)
		return -ENOMEM;
	r = connect_monitor(v, deadline_ns);
	if ((r == -EPIPE || r == -ECONNREFUSED) &&
	    vmm_explain_death(v, "before it answered", problem))
		return r;
	if (r < 0)
		problem_errno(problem, r, "QEMU with process id %d does not answer", (int)v->pid);
	return r;
}

/* One command; a connection that broke is made anew first. A dead QEMU explains itself. */
static int call(struct vmm *v, const char *command, json_t *arguments, int fd, uint64_t deadline_ns,
		struct problem *problem, json_t **ret)
{
	struct problem local = PROBLEM_INIT;
	struct qemu *q = v->driver;
	char what[64];
	int r = 0;

	(void)snprintf(what, sizeof(what), "during \"%s\"", command); /* commands are short */

	if (!q->qmp || qmp_is_broken(q->qmp))
		r = connect_monitor(v, deadline_ns);
	if (r < 0)
		json_decref(arguments);
	else
		r = qmp_call(q->qmp, command, arguments, fd, deadline_ns, &local, ret);
	if (r == 0)
		return 0;
	if ((r == -EPIPE || r == -ECONNREFUSED) && vmm_explain_death(v, what, problem))
		return -EPIPE;
	if (problem_is_set(&local))
		problem_set(problem, local.status, "%s", local.message);
	problem_errno(problem, r, "cannot send \"%s\" to QEMU", command);
	return r;
}

/* What the process inherits besides the memory; closed here as soon as it has them. */
struct inheritance {
	int memory;
	int qmp;
	int agent;
	int network; /* -1 without such a device */
	int log;
};

#define INHERITANCE_NONE ((struct inheritance){-1, -1, -1, -1, -1})

static void inheritance_close(struct inheritance *i)
{
	fd_close(i->memory);
	fd_close(i->qmp);
	fd_close(i->agent);
	fd_close(i->network);
	fd_close(i->log);
}

/* A descriptor of the memory that cannot be written through, whatever we were given. */
static int read_only_memory(int fd)
{
	int flags = fcntl(fd, F_GETFL);
	char path[32];

	if (flags < 0)
		return error_errno();
	if ((flags & O_ACCMODE) == O_RDONLY) {
		fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	} else {
		(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd); /* always fits */
		fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	return fd < 0 ? error_errno() : fd;
}

static int open_in_work_dir(const struct vmm *v, const char *name, struct problem *problem)
{
	_cleanup_free_ char *path = str_printf("%s/%s", v->work_dir, name);
	int fd = -ENOMEM;

	if (path && str_has_suffix(name, ".sock")) {
		fd = fd_unix_listen(path, SOCK_STREAM, 0600);
	} else if (path) {
		fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
		fd = fd < 0 ? -errno : fd;
	}
	if (fd < 0)
		problem_errno(problem, fd, "cannot open %s in %s", name, v->work_dir);
	return fd;
}

static int open_inheritance(const struct vmm *v, const struct vmm_config *config,
			    struct problem *problem, struct inheritance *ret)
{
	ret->memory = read_only_memory(config->memory_fd);
	if (ret->memory < 0)
		return ret->memory;
	ret->log = open_in_work_dir(v, LOG_NAME, problem);
	if (ret->log < 0)
		return ret->log;
	ret->qmp = open_in_work_dir(v, "qmp.sock", problem);
	if (ret->qmp < 0)
		return ret->qmp;
	ret->agent = open_in_work_dir(v, "agent.sock", problem);
	if (ret->agent < 0 || !config->mac)
		return MIN(ret->agent, 0);
	ret->network = open_in_work_dir(v, "net.sock", problem);
	return MIN(ret->network, 0);
}

/* The loader only warns about a library that it cannot load, and splits the list at these. */
static int check_preload(const char *path, struct problem *problem)
{
	if (path && path[0] == '/' && !strpbrk(path, " :") && access(path, R_OK) == 0)
		return 0;
	problem_set(problem, 500, "the preload library %s cannot be used", path ? path : "(none)");
	return error_trace(-EINVAL);
}

static const char *register_words(enum vmm_register reg)
{
	switch (reg) {
	case VMM_REGISTER_MINOR:
		return DORM_VMM_UFFD "=" DORM_VMM_UFFD_MINOR;
	case VMM_REGISTER_NONE:
		return DORM_VMM_UFFD "=" DORM_VMM_UFFD_NONE;
	default:
		return DORM_VMM_UFFD "=" DORM_VMM_UFFD_MISSING;
	}
}

static void command_freep(char ***command)
{
	jail_command_free(*command);
}

/* From outside, while it loads its libraries: joining waits for the kernel, up to 15 ms. */
static int enter_cgroup(const struct vmm *v, const struct vmm_jail *jail, struct problem *problem)
{
	int r = jail && jail->cgroup ? cgroup_add(jail->cgroups, jail->cgroup, v->pid) : 0;

	if (r == -ESRCH) /* it ended already: that is for whoever talks to it to explain */
		return 0;
	problem_errno(r < 0 ? problem : NULL, r, "putting QEMU into the cgroup %s",
		      r < 0 ? jail->cgroup : "");
	return r;
}

static int run(struct vmm *v, const struct command_line *c, const struct vmm_config *config,
	       const struct inheritance *in, struct problem *problem)
{
	_cleanup_free_ char *preload = str_printf("LD_PRELOAD=%s", config->preload);
	_cleanup_free_ char *pager = str_printf(DORM_VMM_PAGER_SOCKET "=%s",
						config->pager_socket ? config->pager_socket : "");
	_cleanup_free_ char *memory = str_printf(DORM_VMM_MEMORY_FD "=%d", COMMAND_LINE_FD_MEMORY);
	const char *env[] = {preload, pager, memory, register_words(config->reg), NULL};
	const int fds[] = {in->memory, in->qmp, in->agent, in->network}; /* enum command_line_fd */
	const struct spawn_limit no_core = {RLIMIT_CORE, 0};
	_cleanup_(command_freep) char **jailed = NULL;
	struct spawn_options o = {.argv = command_line_argv(c),
				  .env = env,
				  .clear_env = true,
				  .fds = fds,
				  .n_fds = ARRAY_SIZE(fds) - !config->mac,
				  .netns_fd = config->netns_fd,
				  .output_fd = in->log,
				  .cwd = v->work_dir,
				  .new_session = true,
				  .limits = &no_core,
				  .n_limits = 1};
	int r;

	if (!preload || !pager || !memory)
		return -ENOMEM;
	if (config->jail) {
		r = jail_command(config->jail, config, o.argv, problem, &jailed);
		if (r < 0)
			return r;
		o.argv = (const char *const *)jailed;
		o.new_pids = config->jail->walls & JAIL_PIDS;
	}
	r = spawn(&o, &v->pid, &v->pidfd);
	if (r < 0) {
		problem_errno(problem, r, "cannot run %s", o.argv[0]);
		problem_hint(problem, "install qemu-system-x86, or set DORM_QEMU to the program");
	}
	return r == 0 ? enter_cgroup(v, config->jail, problem) : r;
}

static int qemu_start(struct vmm *v, const struct vmm_config *config, uint64_t deadline_ns,
		      struct problem *problem)
{
	__attribute__((cleanup(inheritance_close))) struct inheritance in = INHERITANCE_NONE;
	_cleanup_(command_line_freep) struct command_line *c = NULL;
	int r = command_line_new(program(), config, problem, &c);

	if (r < 0)
		return r;
	r = check_preload(config->preload, problem);
	if (r < 0)
		return r;
	r = open_inheritance(v, config, problem, &in);
	if (r < 0)
		return r;
	r = run(v, c, config, &in, problem);
	if (r < 0)
		return r;
	inheritance_close(&in);
	in = INHERITANCE_NONE;
	return qemu_attach(v, deadline_ns, problem);
}

/* Wait until @from can be read; a file always can. Return: 0; -EPIPE when QEMU ended; -ETIMEDOUT */
static int await_input(const struct vmm *v, int from, uint64_t deadline_ns)
{
	for (;;) {
		struct pollfd p[2] = {{.fd = from, .events = POLLIN},
				      {.fd = v->pidfd, .events = POLLIN}};
		int n = poll(p, 2, deadline_poll_ms(deadline_ns));

		if (n < 0 && errno != EINTR)
			return error_errno();
		if (n > 0)
			return p[1].revents ? -EPIPE : 0;
		if (deadline_passed(deadline_ns))
			return -ETIMEDOUT;
	}
}

/* Copy @from to its end into @to. Return: 0; -EPIPE when QEMU reads no more; -ETIMEDOUT */
static int pump(const struct vmm *v, int from, int to, uint64_t deadline_ns)
{
	for (;;) {
		char chunk[16384];
		int r = await_input(v, from, deadline_ns);
		ssize_t n = r < 0 ? 0 : read(from, chunk, sizeof(chunk));

		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0)
			return error_errno();
		if (r < 0 || n == 0)
			return r;
		r = fd_write_deadline(to, chunk, (size_t)n, deadline_ns);
		if (r < 0)
			return r;
	}
}

/* Return: 0 done; negative errno. A state that does not fit ends QEMU, mostly */
static int await_migration(struct vmm *v, uint64_t deadline_ns, struct problem *problem)
{
	for (;;) {
		json_t *reply = NULL;
		const char *status;
		int r = call(v, "query-migrate", NULL, -1, deadline_ns, problem, &reply);
		bool done, failed;

		if (r < 0)
			return r;
		status = json_string_value(json_object_get(reply, "status"));
		done = status && strcmp(status, "completed") == 0;
		failed = status && strcmp(status, "failed") == 0;
		json_decref(reply);
		if (done)
			return 0;
		if (failed) {
			problem_set(problem, 500, "QEMU could not load the device state");
			return error_trace(-EBADMSG);
		}
		if (deadline_passed(deadline_ns)) {
			problem_set(problem, 504, "QEMU did not load the device state in time");
			return -ETIMEDOUT;
		}
		usleep(300); /* loading takes milliseconds and tells nobody when it is done */
	}
}

static int begin_load(struct vmm *v, int fd, uint64_t deadline_ns, struct problem *problem)
{
	int r = call(v, "getfd", json_pack("{s:s}", "fdname", "state"), fd, deadline_ns, problem,
		     NULL);

	if (r < 0)
		return r;
	return call(v, "migrate-incoming", json_pack("{s:s}", "uri", "fd:state"), -1, deadline_ns,
		    problem, NULL);
}

static int qemu_load(struct vmm *v, int fd, uint64_t deadline_ns, struct problem *problem)
{
	_cleanup_fd_ int ours = -1, theirs = -1;
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return error_errno();
	ours = pair[0];
	theirs = pair[1];
	r = begin_load(v, theirs, deadline_ns, problem);
	if (r < 0)
		return r;
	theirs = fd_close(theirs);
	r = pump(v, fd, ours, deadline_ns);
	ours = fd_close(ours);
	if (r == -EPIPE || r == -ECONNRESET) /* it read enough to dislike it: hear why */
		r = await_migration(v, deadline_ns, problem) < 0 ? -EPIPE : -EBADMSG;
	else if (r == 0)
		r = await_migration(v, deadline_ns, problem);
	problem_errno(r < 0 ? problem : NULL, r, "cannot load the device state into QEMU");
	return r;
}

static int query_running(struct vmm *v, uint64_t deadline_ns, struct problem *problem)
{
	json_t *reply = NULL;
	int r = call(v, "query-status", NULL, -1, deadline_ns, problem, &reply);

	if (r < 0)
		return r;
	r = json_is_true(json_object_get(reply, "running"));
	json_decref(reply);
	return r;
}

static int qemu_is_running(struct vmm *v, uint64_t deadline_ns)
{
	return query_running(v, deadline_ns, NULL);
}

static int set_running(struct vmm *v, bool on, uint64_t deadline_ns, struct problem *problem)
{
	const char *command = on ? "cont" : "stop";
	int r = call(v, command, NULL, -1, deadline_ns, problem, NULL);

	if (r < 0)
		return r;
	r = query_running(v, deadline_ns, problem);
	if (r < 0)
		return r;
	if (r == (int)on)
		return 0;
	problem_set(problem, 500, "QEMU says that its guest %s after \"%s\"",
		    on ? "stands still" : "runs", command);
	return error_trace(-EPROTO);
}

static void forget_fdsets(struct vmm *v, uint64_t deadline_ns);

static int qemu_resume(struct vmm *v, uint64_t deadline_ns, struct problem *problem)
{
	int r = set_running(v, true, deadline_ns, problem);

	if (r == 0)
		forget_fdsets(v, deadline_ns);
	return r;
}

static int qemu_pause(struct vmm *v, uint64_t deadline_ns, struct problem *problem)
{
	return set_running(v, false, deadline_ns, problem);
}

/*
 * QEMU is sent a descriptor and told to write "/dev/fdset/N": a jailed one could open neither the
 * file nor ours in /proc. It must be open for writing and nothing else, or QEMU does not take it.
 */
static int write_only(int fd)
{
	char path[32];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd); /* always fits */
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 ? error_errno() : fd;
}

/* While the guest stands still QEMU 7.2 closes none, not even when it is told to; so it is told
 * when the guest goes on. All of its sets are ours, and are numbered from 0. */
static void forget_fdsets(struct vmm *v, uint64_t deadline_ns)
{
	struct qemu *q = v->driver;

	while (q->n_fdsets > 0)
		(void)call(v, "remove-fd", json_pack("{s:I}", "fdset-id", --q->n_fdsets), -1,
			   deadline_ns, NULL, NULL); /* then one is left open until its end */
}

static int save_device_to(struct vmm *v, int fd, uint64_t deadline_ns, struct problem *problem)
{
	struct qemu *q = v->driver;
	json_t *reply = NULL;
	json_int_t id;
	char path[48];
	int r;

	r = call(v, "add-fd", json_object(), fd, deadline_ns, problem, &reply);
	if (r < 0)
		return r;
	id = json_integer_value(json_object_get(reply, "fdset-id"));
	json_decref(reply);
	if (id >= q->n_fdsets && id < FDSETS_MAX)
		q->n_fdsets = id + 1;
	(void)snprintf(path, sizeof(path), "/dev/fdset/%lld", (long long)id); /* fits */
	/* "live": true would make QEMU give up its disks */
	return call(v, "xen-save-devices-state",
		    json_pack("{s:s, s:b}", "filename", path, "live", 0), -1, deadline_ns, problem,
		    NULL);
}

static int qemu_save_device(struct vmm *v, int fd, uint64_t deadline_ns, struct problem *problem)
{
	_cleanup_fd_ int out = write_only(fd);
	struct stat st;
	int r = out < 0 ? out : 0;

	if (r == 0 && ftruncate(out, 0) < 0 && errno != EINVAL) /* a device has no length */
		r = error_errno();
	if (r == 0)
		r = save_device_to(v, out, deadline_ns, problem);
	if (r == 0 && fstat(out, &st) < 0)
		r = error_errno();
	if (r < 0 || st.st_size > 0)
		return r;
	problem_set(problem, 500, "QEMU saved no device state");
	return error_trace(-EIO);
}

/* ---- disks ------------------------------------------------------------------------------------
 */

/* The node of the one device whose medium can be written, with a chain below it. */
static const char *find_top(const json_t *devices)
{
	const json_t *device;
	size_t i;

	json_array_foreach (devices, i, device) {
		const json_t *in = json_object_get(device, "inserted");
		const char *driver = json_string_value(json_object_get(in, "drv"));
		const char *node = json_string_value(json_object_get(in, "node-name"));

		if (driver && node && !strcmp(driver, "qcow2") && !strncmp(node, "n-", 2) &&
		    json_is_false(json_object_get(in, "ro")))
			return node + 2;
	}
	return NULL;
}

static int qemu_disk_top(struct vmm *v, uint64_t deadline_ns, struct problem *problem, char ret[64])
{
	json_t *devices = NULL;
	const char *top;
	int r = call(v, "query-block", NULL, -1, deadline_ns, problem, &devices);

	if (r < 0)
		return r;
	top = find_top(devices);
	if (top)
		str_copy(ret, 64, top);
	json_decref(devices);
	return top ? 0 : -ENOENT;
}

/*
 * "blockdev-snapshot" flushes what is the top so far to the disk, and fails when that does: so what
 * it leaves below is whole. ("stop" flushes too, and tells nobody when it could not.)
 */
static int qemu_disk_push(struct vmm *v, const char *path, uint64_t deadline_ns,
			  struct problem *problem)
{
	char top[64], node[80], over[80];
	int r = qemu_disk_top(v, deadline_ns, problem, top);

	if (r < 0)
		return r;
	if (!block_node_is_valid(path))
		return error_trace(-EINVAL);
	r = call(v, "blockdev-add", block_node_overlay(path, NULL), -1, deadline_ns, problem, NULL);
	if (r < 0)
		return r;
	(void)snprintf(node, sizeof(node), "n-%s", top);		   /* fits */
	(void)snprintf(over, sizeof(over), "n-%s", block_node_name(path)); /* was checked */
	r = call(v, "blockdev-snapshot", json_pack("{s:s, s:s}", "node", node, "overlay", over), -1,
		 deadline_ns, problem, NULL);
	if (r < 0) /* it is not in use, so it goes */
		(void)call(v, "blockdev-del", json_pack("{s:s}", "node-name", over), -1,
			   deadline_ns, NULL, NULL);
	return r;
}

/* Nodes that somebody still uses stay, which costs a descriptor each. */
static void delete_nodes(struct vmm *v, const char *const paths[], size_t n, uint64_t deadline_ns)
{
	for (size_t i = 0; i < n; i++) {
		json_t *name = json_sprintf("n-%s", block_node_name(paths[i]));

		(void)call(v, "blockdev-del", json_pack("{s:o}", "node-name", name), -1,
			   deadline_ns, NULL, NULL);
	}
}

static int qemu_disk_rebase(struct vmm *v, const char *top, const char *merged, const char *below,
			    const char *const gone[], size_t n_gone, uint64_t deadline_ns,
			    struct problem *problem)
{
	const struct vmm_layer layer = {.path = merged};
	int r;

	if (!block_node_is_valid(merged))
		return error_trace(-EINVAL);
	r = call(v, "blockdev-add", block_node_layer(&layer, below), -1, deadline_ns, problem,
		 NULL);
	if (r < 0)
		return r;
	r = call(v, "blockdev-reopen", block_node_reopen(top, merged), -1, deadline_ns, problem,
		 NULL);
	if (r < 0)
		delete_nodes(v, &merged, 1, deadline_ns);
	else
		delete_nodes(v, gone, n_gone, deadline_ns);
	return r;
}

static int qemu_is_stalled(struct vmm *v, uint64_t deadline_ns)
{
	json_t *reply = NULL;
	const char *status;
	int r = call(v, "query-status", NULL, -1, deadline_ns, NULL, &reply);

	if (r < 0)
		return r;
	status = json_string_value(json_object_get(reply, "status"));
	r = status && !strcmp(status, "io-error");
	json_decref(reply);
	return r;
}

/* Append what the guest wrote since the last time, forget what is too old. */
static int read_ring(struct qemu *q, const char *encoded)
{
	size_t len = strlen(encoded);
	ssize_t n;
	int r = buf_reserve(&q->console, len);

	if (r < 0)
		return r;
	n = base64_decode(encoded, len, q->console.data + q->console.len);
	if (n < 0)
		return error_trace(-EPROTO);
	for (ssize_t i = 0; i < n; i++)
		if (!q->console.data[q->console.len + (size_t)i])
			q->console.data[q->console.len + (size_t)i] = ' ';
	q->console.len += (size_t)n;
	if (q->console.len > CONSOLE_MAX)
		buf_consume(&q->console, q->console.len - CONSOLE_MAX);
	return 0;
}

static int qemu_console(struct vmm *v, char *buf, size_t size, uint64_t deadline_ns)
{
	struct qemu *q = v->driver;
	json_t *reply = NULL, *arguments = json_pack("{s:s, s:i, s:s}", "device", "console", "size",
						     CONSOLE_MAX, "format", "base64");
	int r = arguments ? call(v, "ringbuf-read", arguments, -1, deadline_ns, NULL, &reply)
			  : -ENOMEM;
	size_t n;

	if (r == 0)
		r = json_is_string(reply) ? read_ring(q, json_string_value(reply)) : -EPROTO;
	json_decref(reply);
	/* of a VMM that is gone we still know what was read before */
	if (r < 0 && (r != -EPIPE || !q->console.len))
		return r;
	n = MIN(q->console.len, size - 1);
	if (n)
		memcpy(buf, q->console.data + q->console.len - n, n);
	buf[n] = 0;
	return 0;
}

static const char *qemu_last_words(struct vmm *v)
{
	struct qemu *q = v->driver;

	return q && q->qmp ? qmp_shutdown_reason(q->qmp) : NULL;
}

const struct vmm_ops vmm_qemu_ops = {
	.log_name = LOG_NAME,
	.version = qemu_version,
	.start = qemu_start,
	.attach = qemu_attach,
	.detach = qemu_detach,
	.load = qemu_load,
	.resume = qemu_resume,
	.pause = qemu_pause,
	.is_running = qemu_is_running,
	.save_device = qemu_save_device,
	.disk_top = qemu_disk_top,
	.disk_push = qemu_disk_push,
	.disk_rebase = qemu_disk_rebase,
	.is_stalled = qemu_is_stalled,
	.console = qemu_console,
	.last_words = qemu_last_words,
};
