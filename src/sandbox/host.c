/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "sandbox/pool.h"
#include "sys/kvm.h"
#include "sys/netns.h"
#include "sys/tsc.h"

#define PAGER_LOCK_MS 5000
#define ALIVE_MS      5000
#define ROOT_MAX      60 /* sockets below sandboxes/<id>/ must fit into 107 bytes */

static int fill_paths(struct host *host, const struct host_config *config, struct problem *problem)
{
	const char *const programs[] = {"dorm-pager", "libdorm-vmm.so", "dorm-agent", "dorm-net",
					"dorm-jail"};
	char **const slots[] = {&host->pager_program, &host->preload, &host->agent_program,
				&host->net_program, &host->jail_program};

	if (config->root[0] != '/' || strlen(config->root) > ROOT_MAX ||
	    config->run_dir[0] != '/' || strlen(config->run_dir) > ROOT_MAX) {
		problem_set(problem, 400,
			    "root and run directory must be absolute paths of at most %d bytes",
			    ROOT_MAX);
		problem_hint(problem, "unix sockets live below them, whose names are limited");
		return -ENAMETOOLONG;
	}
	if (config->guest_cache[0] != '/') {
		problem_set(problem, 400, "the guest cache '%s' must be an absolute path",
			    config->guest_cache);
		return -EINVAL;
	}
	host->root = strdup(config->root);
	host->run_dir = strdup(config->run_dir);
	host->guest_cache = strdup(config->guest_cache);
	if (!host->root || !host->run_dir || !host->guest_cache)
		return -ENOMEM;
	for (unsigned i = 0; i < ARRAY_SIZE(programs); i++) {
		*slots[i] = str_printf("%s/%s", config->libexec, programs[i]);
		if (!*slots[i])
			return -ENOMEM;
		if (access(*slots[i], R_OK) < 0) {
			int r = error_errno();

			problem_errno(problem, r, "%s", *slots[i]);
			problem_hint(problem, "dormd needs it beside itself, or --libexec DIR");
			return r;
		}
	}
	host->pager_options.program = host->pager_program;
	host->pager_options.run_dir = host->run_dir;
	return 0;
}

/* KVM is used when it is real: where /dev/kvm emulates guest kernels, TCG is a hundred times
 * faster. */
static void choose_accel(struct host *host, const char *wanted)
{
	struct kvm_probe kvm;

	if (wanted) {
		str_copy(host->accel, sizeof(host->accel), wanted);
		return;
	}
	str_copy(host->accel, sizeof(host->accel),
		 kvm_probe(&kvm) == 0 && kvm.usable ? "kvm" : "tcg");
}

/* Whoever holds it is asking a pager that may not answer, or starting one. */
int host_lock_pager(struct host *host, struct problem *problem)
{
	if (deadline_lock(&host->pager_lock, deadline_after_ms(PAGER_LOCK_MS)) == 0)
		return 0;
	problem_set(problem, 503, "the pager does not answer");
	return -ETIMEDOUT;
}

int host_pager(struct host *host, struct problem *problem, pid_t *ret_pid)
{
	pid_t before;
	int r = host_lock_pager(host, problem);

	if (r < 0)
		return r;
	before = host->pager_process.pid;
	r = pager_process_ensure(&host->pager_process, host->pager, &host->pager_options, problem);
	if (r == 0) {
		*ret_pid = host->pager_process.pid;
		if (host->pager_process.pid != before)
			r = monitor_watch_pager(host);
	}
	pthread_mutex_unlock(&host->pager_lock);
	return error_trace(r);
}

int host_find_pager(struct host *host, pid_t *ret_pid)
{
	pid_t before;
	int r;

	LOCK_SCOPE(&host->pager_lock);
	before = host->pager_process.pid;
	r = pager_process_find(&host->pager_process, host->pager);
	if (r < 0)
		return r;
	*ret_pid = host->pager_process.pid;
	return host->pager_process.pid != before ? monitor_watch_pager(host) : 0;
}

bool host_pager_takes_back(struct host *host)
{
	LOCK_SCOPE(&host->pager_lock);
	return host->pager_process.takes_back;
}

/* A pager that an earlier daemon started has that one's options; one that cannot change them keeps
 * them. */
static void configure_pager(struct host *host)
{
	const struct pager_process_options *o = &host->pager_options;
	json_auto_t *changes = json_object(), *now = NULL;
	struct problem p = PROBLEM_INIT;
	int r = 0;

	if (o->no_prefetch)
		r |= json_object_set_new(changes, "prefetch", json_false());
	if (o->no_userfaultfd)
		r |= json_object_set_new(changes, "userfaultfd", json_false());
	if (o->memory_limit)
		r |= json_object_set_new(changes, "memory_limit",
					 json_integer((json_int_t)o->memory_limit));
	if (o->image_limit)
		r |= json_object_set_new(changes, "image_limit",
					 json_integer((json_int_t)o->image_limit));
	if (r || !json_object_size(changes))
		return;
	r = pager_client_config(host->pager, changes, deadline_after_ms(PAGER_LOCK_MS), &p, &now);
	if (r != 0)
		log_warn("the pager cannot be configured, it goes on as it is: %s", p.message);
}

/* Without an index listings are slower, and right all the same. */
static void open_index(struct host *host)
{
	struct problem p = PROBLEM_INIT;
	int r = store_index_open(host->store, &p, &host->index);

	if (r == 0)
		return;
	problem_errno(&p, r, "opening it");
	log_warn("the store's index cannot be used, so the directories are read instead: %s",
		 p.message);
}

/* A VM that cannot be shut in is the same VM, with one wall less. */
static void make_netns(struct host *host)
{
	host->netns_fd = netns_new();
	if (host->netns_fd >= 0)
		return;
	log_warn("VMs run in this network namespace: one without a network cannot be made: %s",
		 strerrordesc_np(-host->netns_fd));
	host->netns_fd = -1;
}

/* Without it nothing that ran before is taken for lost but by its process being gone. */
static void read_boot_id(struct host *host)
{
	_cleanup_free_ char *text = NULL;

	if (file_read(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 4096, &text, NULL) < 0)
		return;
	text[strcspn(text, "\n")] = 0;
	str_copy(host->boot_id, sizeof(host->boot_id), text);
}

static int set_up(struct host *host, const struct host_config *config, struct problem *problem)
{
	_cleanup_free_ char *socket = NULL;
	pid_t pid;
	int r;

	r = fill_paths(host, config, problem);
	if (r < 0)
		return r;
	choose_accel(host, config->accel);
	read_boot_id(host);
	r = tsc_khz(&host->tsc_khz);
	if (r == 0)
		r = vmm_version(host->vmm_version, problem);
	if (r == 0)
		make_netns(host);
	if (r == 0)
		r = file_mkdir_p(host->run_dir, 0700);
	if (r < 0) {
		problem_errno(problem, r, "looking at this host");
		return r;
	}
	socket = str_printf("%s/pager.sock", host->run_dir);
	if (!socket)
		return -ENOMEM;
	r = pager_client_new(socket, &host->pager);
	if (r == 0)
		r = store_open(host->root, problem, &host->store);
	if (r == 0)
		r = jails_init(&host->jails, config, host->jail_program, host->store->root_fd,
			       problem);
	if (r == 0)
		open_index(host);
	if (r == 0)
		r = monitor_open(host);
	if (r == 0)
		r = recover(host, problem); /* looks for the old pager before a new one starts */
	if (r == 0)
		r = host_pager(host, problem, &pid);
	if (r == 0)
		configure_pager(host);
	if (r == 0)
		r = monitor_start(host);
	if (r == 0)
		r = pool_start(host->pool);
	return r;
}

static void copy_config(struct host *host, const struct host_config *config)
{
	host->limits = config->limits;
	host->keys = config->keys;
	host->sleep_options = (struct image_writer_options){
		.codec = config->codec, .level = config->codec_level, .keys = config->keys};
	host->template_options = (struct image_writer_options){
		.codec = IMAGE_CODEC_ZSTD, .level = config->template_level, .keys = config->keys};
	host->compact = config->compact;
	host->reflink = config->reflink;
	host->offers_network = config->offers_network;
	host->pager_mode = config->pager_mode;
	host->pager_options = (struct pager_process_options){
		.no_prefetch = config->no_prefetch,
		.no_userfaultfd = config->no_userfaultfd,
		.memory_limit = config->memory_limit,
		.image_limit = config->image_limit,
	};
}

static int set_up_admission(struct host *host, const struct host_config *config)
{
	const struct pool_options options = {.max = config->warm_max,
					     .total = config->warm_total,
					     .idle_s = config->warm_idle_ms / 1000};
	int r = host_admission_new(host, config);

	return r < 0 ? r : pool_new(host, &options, &host->pool);
}

int host_new(const struct host_config *config, struct problem *problem, struct host **ret)
{
	struct host *host = calloc(1, sizeof(*host));
	pthread_mutexattr_t attr;
	int r;

	if (!host)
		return -ENOMEM;
	copy_config(host, config);
	r = events_new(&host->events);
	host->pager_process = PAGER_PROCESS_INIT;
	host->epoll_fd = host->kick_fd = host->clock_fd = host->netns_fd = -1;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK); /* op_lock() asks */
	pthread_mutex_init(&host->lock, &attr);
	pthread_mutex_init(&host->quota_lock, &attr);
	pthread_mutex_init(&host->pager_lock, &attr);
	pthread_mutexattr_destroy(&attr);
	pthread_mutex_init(&host->watch_lock, NULL);
	if (r == 0)
		r = set_up_admission(host, config);
	if (r == 0)
		r = set_up(host, config, problem);
	if (r < 0) {
		problem_errno(problem, r, "starting on %s", config->root);
		host_free(host, false);
		return error_trace(r);
	}
	log_info("store=%s accel=%s qemu=%s sandboxes=%zu", host->root, host->accel,
		 host->vmm_version, host->n_sandboxes);
	events_add(host->events, "host.started", NULL,
		   json_pack("{s:s, s:I}", "version", DORM_VERSION, "sandboxes",
			     (json_int_t)host->n_sandboxes));
	*ret = host;
	return 0;
}

void host_begin_stop(struct host *host)
{
	atomic_store(&host->stopping, true);
	admission_stop(host->admission);
	events_add(host->events, "host.stopping", NULL, NULL);
	events_stop(host->events);
	LOCK_SCOPE(&host->lock);
	for (size_t i = 0; i < host->n_sandboxes; i++) {
		struct sandbox *sb = host->sandboxes[i];

		LOCK_SCOPE(&sb->info);
		pthread_cond_broadcast(&sb->resume.changed);
		if (sb->channel && sb->record.state != SANDBOX_PAUSING)
			channel_shutdown(sb->channel);
	}
}

static bool any_process(struct host *host)
{
	bool any = false;

	for (size_t i = 0; i < host->n_sandboxes; i++)
		any |= host->sandboxes[i]->vmm != NULL;
	return any;
}

struct host *host_free(struct host *host, bool stop_pager)
{
	if (!host)
		return NULL;
	pool_stop(host->pool);
	monitor_stop(host);
	if (stop_pager && !any_process(host))
		pager_process_stop(&host->pager_process);
	compactions_free(host);
	for (size_t i = 0; i < host->n_sandboxes; i++)
		sandbox_unref(host->sandboxes[i]);
	free(host->sandboxes);
	builds_free(host);
	pool_free(host->pool);
	admission_free(host->admission);
	pager_client_free(host->pager);
	pager_process_deinit(&host->pager_process);
	store_index_close(host->index);
	store_close(host->store);
	fd_close(host->netns_fd);
	events_free(host->events);
	pthread_mutex_destroy(&host->lock);
	pthread_mutex_destroy(&host->quota_lock);
	pthread_mutex_destroy(&host->pager_lock);
	pthread_mutex_destroy(&host->watch_lock);
	free(host->root);
	free(host->run_dir);
	free(host->guest_cache);
	free(host->pager_program);
	free(host->preload);
	free(host->agent_program);
	free(host->net_program);
	free(host->jail_program);
	jails_deinit(&host->jails);
	free(host);
	return NULL;
}

bool host_is_alive(struct host *host)
{
	if (deadline_lock(&host->lock, deadline_after_ms(ALIVE_MS)) < 0)
		return false;
	pthread_mutex_unlock(&host->lock);
	return true;
}

bool host_offers_network(const struct host *host)
{
	return host->offers_network;
}

struct events *host_events(const struct host *host)
{
	return host->events;
}

const char *host_root(const struct host *host)
{
	return host->root;
}

int host_ready(struct host *host, struct problem *problem)
{
	unsigned long long left;
	pid_t pid;
	int r;

	if (atomic_load(&host->draining)) {
		problem_set(problem, 503, "draining: this host takes no new work");
		return -EAGAIN;
	}
	r = host_pager(host, problem, &pid);
	if (r < 0)
		return r;
	r = store_free_bytes(host->store, &left);
	if (r == 0 && left < (64ull << 20)) {
		problem_set(problem, 503, "the store %s has only %llu MiB left", host->root,
			    left >> 20);
		r = -EAGAIN;
	}
	return r < 0 ? r : admission_check(host, problem);
}
