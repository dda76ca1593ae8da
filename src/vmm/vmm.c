/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/vmm.h"

#include <ctype.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "vmm/driver.h"
#include "vmm/preload/dorm-vmm.h"

#define DEATH_WAIT_MS 500
#define LOG_TAIL      2048
#define LOG_LINES     4

/* The one driver there is; which one a VM has is decided here. */
static const struct vmm_ops *const default_ops = &vmm_qemu_ops;

int vmm_version(char ret_version[64], struct problem *problem)
{
	return default_ops->version(ret_version, problem);
}

int vmm_dial_network(const struct vmm *v)
{
	_cleanup_free_ char *path = str_printf("%s/net.sock", v->work_dir);

	return path ? fd_unix_connect(path, SOCK_STREAM) : -ENOMEM;
}

/* Everything but the process. */
static int vmm_new(const char *work_dir, uint64_t memory_bytes, struct problem *problem,
		   struct vmm **ret)
{
	_cleanup_(vmm_freep) struct vmm *v = calloc(1, sizeof(*v));
	int n;

	if (!v)
		return -ENOMEM;
	v->ops = default_ops;
	v->pid = -1;
	v->pidfd = -1;
	v->memory_bytes = memory_bytes;
	v->work_dir = strdup(work_dir);
	if (!v->work_dir)
		return -ENOMEM;
	n = snprintf(v->agent_socket, sizeof(v->agent_socket), "%s/agent.sock", work_dir);
	if (work_dir[0] != '/' || n < 0 || (size_t)n >= sizeof(v->agent_socket)) {
		problem_set(problem, 400,
			    "the work directory %s is relative or too long for sockets", work_dir);
		return -EINVAL;
	}
	*ret = take_ptr(v);
	return 0;
}

static int set_memory(struct vmm *v, int memory_fd, struct problem *problem)
{
	struct stat st;

	if (fstat(memory_fd, &st) < 0)
		return error_errno();
	if ((uint64_t)st.st_size < v->memory_bytes) {
		problem_set(problem, 400, "the memory file has %lld bytes, the VM needs %llu",
			    (long long)st.st_size, (unsigned long long)v->memory_bytes);
		return -EINVAL;
	}
	v->memory_dev = st.st_dev;
	v->memory_ino = st.st_ino;
	return 0;
}

/* Learn how it ended, if it was our child and nobody has asked before. */
static void collect(struct vmm *v)
{
	if (!v->collected && v->pidfd >= 0 && pidfd_reap(v->pidfd, &v->end) == 0)
		v->collected = true;
}

struct vmm *vmm_free(struct vmm *v)
{
	if (!v)
		return NULL;
	v->ops->detach(v);
	collect(v);
	fd_close(v->pidfd);
	free(v->mappings);
	free(v->work_dir);
	free(v);
	return NULL;
}

int vmm_start(const struct vmm_config *config, uint64_t deadline_ns, struct problem *problem,
	      struct vmm **ret)
{
	_cleanup_(vmm_freep) struct vmm *v = NULL;
	int r = vmm_new(config->work_dir, config->memory_bytes, problem, &v);

	if (r == 0)
		r = set_memory(v, config->memory_fd, problem);
	if (r < 0)
		return r;
	r = v->ops->start(v, config, deadline_ns, problem);
	if (r == 0)
		r = proc_start_time(v->pid, &v->start_time);
	if (r == 0) {
		r = vmm_find_memory(v);
		if (r < 0)
			problem_errno(problem, r,
				      "the VMM runs without the memory that it was given");
	}
	if (r < 0) {
		problem_errno(problem, r, "cannot start a VM in %s", config->work_dir);
		(void)vmm_kill(v, deadline_after_ms(DEATH_WAIT_MS)); /* SIGKILL is under way */
		return r;
	}
	*ret = take_ptr(v);
	return 0;
}

static int adopt_process(struct vmm *v, const struct vmm_identity *identity)
{
	int r;

	v->pidfd = pidfd_from_pid(identity->pid);
	if (v->pidfd < 0)
		return v->pidfd;
	v->pid = identity->pid;
	r = proc_start_time(v->pid, &v->start_time);
	if (r < 0)
		return r;
	if (v->start_time != identity->start_time)
		return -ESRCH;
	/* still alive: then the start time was this process's, not that of one after it */
	r = pidfd_is_gone(v->pidfd);
	return r > 0 ? -ESRCH : r;
}

int vmm_adopt(const char *work_dir, const struct vmm_identity *identity, uint64_t memory_bytes,
	      uint64_t deadline_ns, struct problem *problem, struct vmm **ret)
{
	_cleanup_(vmm_freep) struct vmm *v = NULL;
	int r = vmm_new(work_dir, memory_bytes, problem, &v);

	if (r < 0)
		return r;
	v->memory_dev = identity->memory_dev;
	v->memory_ino = identity->memory_ino;
	r = adopt_process(v, identity);
	if (r == 0)
		r = v->ops->attach(v, deadline_ns, problem);
	if (r == 0)
		r = vmm_find_memory(v);
	if (r == -ESRCH)
		problem_set(problem, 500, "the VMM with process id %d is gone", (int)identity->pid);
	if (r < 0) {
		problem_errno(problem, r, "cannot take over the VMM with process id %d",
			      (int)identity->pid);
		return r;
	}
	*ret = take_ptr(v);
	return 0;
}

void vmm_identity(const struct vmm *v, struct vmm_identity *ret)
{
	*ret = (struct vmm_identity){.pid = v->pid,
				     .start_time = v->start_time,
				     .memory_dev = v->memory_dev,
				     .memory_ino = v->memory_ino};
}

pid_t vmm_pid(const struct vmm *v)
{
	return v->pid;
}

int vmm_pidfd(const struct vmm *v)
{
	return v->pidfd;
}

const char *vmm_agent_socket(const struct vmm *v)
{
	return v->agent_socket;
}

int vmm_load(struct vmm *v, int fd, uint64_t deadline_ns, struct problem *problem)
{
	return v->ops->load(v, fd, deadline_ns, problem);
}

int vmm_resume(struct vmm *v, uint64_t deadline_ns, struct problem *problem)
{
	return v->ops->resume(v, deadline_ns, problem);
}

int vmm_pause(struct vmm *v, uint64_t deadline_ns, struct problem *problem)
{
	return v->ops->pause(v, deadline_ns, problem);
}

int vmm_is_running(struct vmm *v, uint64_t deadline_ns)
{
	return v->ops->is_running(v, deadline_ns);
}

int vmm_save_device(struct vmm *v, int fd, uint64_t deadline_ns, struct problem *problem)
{
	return v->ops->save_device(v, fd, deadline_ns, problem);
}

int vmm_disk_top(struct vmm *v, uint64_t deadline_ns, struct problem *problem, char ret[64])
{
	return v->ops->disk_top(v, deadline_ns, problem, ret);
}

int vmm_disk_push(struct vmm *v, const char *path, uint64_t deadline_ns, struct problem *problem)
{
	return path[0] == '/' ? v->ops->disk_push(v, path, deadline_ns, problem)
			      : error_trace(-EINVAL);
}

int vmm_disk_rebase(struct vmm *v, const char *top, const char *merged, const char *below,
		    const char *const gone[], size_t n_gone, uint64_t deadline_ns,
		    struct problem *problem)
{
	return v->ops->disk_rebase(v, top, merged, below, gone, n_gone, deadline_ns, problem);
}

int vmm_is_stalled(struct vmm *v, uint64_t deadline_ns)
{
	return v->ops->is_stalled(v, deadline_ns);
}

int vmm_console(struct vmm *v, char *buf, size_t size, uint64_t deadline_ns)
{
	if (!size)
		return -EINVAL;
	return v->ops->console(v, buf, size, deadline_ns);
}

int vmm_kill(struct vmm *v, uint64_t deadline_ns)
{
	int r;

	if (v->pidfd < 0)
		return 0; /* never came to life */
	r = pidfd_signal(v->pidfd, SIGKILL);
	if (r < 0 && r != -ESRCH)
		return r;
	r = pidfd_wait(v->pidfd, deadline_ns);
	if (r == 0)
		collect(v);
	return r;
}

/* The last lines of the log on one line, printable: a VMM that was taken over may write anything.
 */
static void log_tail(const struct vmm *v, char *buf, size_t size)
{
	_cleanup_free_ char *path = str_printf("%s/%s", v->work_dir, v->ops->log_name);
	_cleanup_fd_ int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	char text[LOG_TAIL + 1], *p;
	off_t end = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
	ssize_t n = end > 0 ? pread(fd, text, LOG_TAIL, MAX(end - LOG_TAIL, (off_t)0)) : 0;

	buf[0] = 0;
	while (n > 0 && isspace((unsigned char)text[n - 1]))
		n--;
	if (n <= 0)
		return;
	text[n] = 0;
	p = text + n;
	for (int lines = 0; p > text; p--)
		if (p[-1] == '\n' && ++lines == LOG_LINES)
			break;
	for (char *c = p; *c; c++)
		if (*c == '\n')
			*c = '|';
		else if (!isprint((unsigned char)*c))
			*c = '?';
	str_copy(buf, size, p);
}

void vmm_exit_reason(struct vmm *v, char *buf, size_t size)
{
	char how[64] = "exited", tail[384];
	const char *words;

	collect(v);
	if (v->pidfd < 0 || pidfd_is_gone(v->pidfd) == 0) {
		str_copy(buf, size, v->pidfd < 0 ? "never started" : "still running");
		return;
	}
	if (v->collected)
		pidfd_describe_end(&v->end, how, sizeof(how));
	words = v->ops->last_words(v);
	log_tail(v, tail, sizeof(tail));
	(void)snprintf(buf, size, "%s%s%s%s%s%s", how, words ? " after " : "", words ? words : "",
		       v->collected && v->end.status == DORM_VMM_EXIT_STATUS
			       ? " (it could not hand its memory to the pager)"
			       : "",
		       tail[0] ? "; its log ends: " : "", tail); /* cut is better than nothing */
}

bool vmm_explain_death(struct vmm *v, const char *what, struct problem *problem)
{
	char reason[480];

	if (v->pidfd < 0 || pidfd_wait(v->pidfd, deadline_after_ms(DEATH_WAIT_MS)) < 0)
		return false;
	vmm_exit_reason(v, reason, sizeof(reason));
	problem_set(problem, 500, "the VMM died %s: it %s", what, reason);
	return true;
}
