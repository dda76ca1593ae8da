/* SPDX-License-Identifier: Apache-2.0 */
/*
 * network.c - a sandbox's way out: its dorm-net (docs/network.md), and what its guest is told
 *
 * What a sandbox may reach is its record's `network`, as rules_parse() takes it; without one it has
 * no network, and no process for it. With one, a dorm-net runs as long as the VM does. It is
 * started beside the VM and awaited when the guest has been repaired, so that both begin at once.
 *
 * When a dorm-net dies, the guest loses its connections and no more: another one is started at
 * once, and if that dies young, too, later and later.
 */
#include "sandbox/private.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "net/address.h"
#include "net/rules.h"
#include "sandbox/agent-client.h"

#define AWAIT_MS	10000
#define STOP_MS		2000
#define AGENT_MS	10000
#define YOUNG_NS	(10 * NSEC_PER_SEC)
#define PAUSE_MS	100 /* before the second try, then twice as long each time */
#define MAX_PAUSE_SHIFT 8u  /* up to 25 seconds */

json_t *sandbox_network_config(const struct sandbox *sb)
{
	json_t *o;

	if (!sb->record.network)
		return NULL;
	o = json_pack("{s:s, s:i, s:s, s:s, s:s, s:i}", "address", NET_GUEST_V4, "prefix",
		      NET_PREFIX_V4, "gateway", NET_GATEWAY_V4, "gatewayMac", NET_GATEWAY_MAC,
		      "dns", NET_RESOLVER_V4, "mtu", NET_MTU);
	if (o && net_host_has_ipv6() &&
	    (json_object_set_new(o, "address6", json_string(NET_GUEST_V6)) < 0 ||
	     json_object_set_new(o, "prefix6", json_integer(NET_PREFIX_V6)) < 0 ||
	     json_object_set_new(o, "gateway6", json_string(NET_GATEWAY_V6)) < 0)) {
		json_decref(o);
		return NULL;
	}
	return o;
}

static int check_device(const struct sandbox *sb, struct problem *problem)
{
	if (sb->manifest.network)
		return 0;
	problem_set(problem, 409,
		    "sandbox %s cannot have a network: its template was built without the device",
		    sb->record.id);
	problem_hint(problem, "build the template again, and create the sandbox from that");
	return -EOPNOTSUPP;
}

static int start(struct sandbox *sb, const json_t *policy, struct problem *problem)
{
	_cleanup_fd_ int vm_fd = vmm_dial_network(sb->vmm);
	const struct net_options options = {.program = sb->host->net_program,
					    .passt = getenv("DORM_PASST") ? getenv("DORM_PASST")
									  : "passt",
					    .work_dir = sb->path,
					    .vm_fd = vm_fd,
					    .ipv6 = net_host_has_ipv6()};

	if (vm_fd < 0) {
		problem_errno(problem, vm_fd, "the network device of sandbox %s", sb->record.id);
		return error_trace(vm_fd);
	}
	sb->net_started_ns = clock_now_ns();
	return error_trace(net_process_start(&options, policy, problem, &sb->net));
}

int sandbox_network_start(struct sandbox *sb, struct problem *problem)
{
	int r;

	if (!sb->record.network)
		return 0;
	r = check_device(sb, problem);
	return r < 0 ? r : start(sb, sb->record.network, problem);
}

/* Passt is what is missing most often. */
static int await(struct sandbox *sb, struct problem *problem)
{
	int r = net_process_await(&sb->net, deadline_after_ms(AWAIT_MS), problem);

	if (r == 0)
		r = monitor_watch_network(sb->host, sb);
	if (r < 0) {
		problem_hint(problem, "is passt installed? `dorm doctor` looks for it");
		net_process_stop(&sb->net, deadline_after_ms(STOP_MS));
	}
	return error_trace(r);
}

int sandbox_network_await(struct sandbox *sb, struct problem *problem)
{
	return sb->net.pid ? await(sb, problem) : 0;
}

void sandbox_network_stop(struct sandbox *sb)
{
	net_process_stop(&sb->net, deadline_after_ms(STOP_MS));
	sb->net_deaths = 0;
}

static int start_and_await(struct sandbox *sb, struct problem *problem)
{
	int r = sandbox_network_start(sb, problem);

	return r < 0 ? r : sandbox_network_await(sb, problem);
}

void sandbox_network_adopt(struct sandbox *sb)
{
	struct problem p = PROBLEM_INIT;
	int r = net_process_find(sb->path, &sb->net);

	if (!sb->record.network) {
		sandbox_network_stop(sb); /* of a change that was not recorded */
		return;
	}
	if (r == 0)
		r = net_process_set_rules(&sb->net, sb->record.network, deadline_after_ms(AWAIT_MS),
					  &p);
	if (r == 0)
		r = monitor_watch_network(sb->host, sb);
	if (r < 0) {
		sandbox_network_stop(sb);
		p = PROBLEM_INIT;
		r = start_and_await(sb, &p);
	}
	if (r < 0)
		log_warn("sandbox=%s has no network: %s", sb->record.id, p.message);
}

/* ---- its death --------------------------------------------------------------------------------
 */

static unsigned pause_ms(const struct sandbox *sb)
{
	return sb->net_deaths > 1 ? PAUSE_MS << MIN(sb->net_deaths - 2, MAX_PAUSE_SHIFT) : 0;
}

/* op held. Return: how long to wait before it is tried again; 0: it runs, or there is no need */
static unsigned revive(struct sandbox *sb)
{
	struct problem p = PROBLEM_INIT;

	if (sb->gone || sb->record.state != SANDBOX_RUNNING || !sb->record.network || sb->net.pid)
		return 0;
	if (start_and_await(sb, &p) == 0) {
		log_info("sandbox=%s has a network again, pid=%d", sb->record.id, (int)sb->net.pid);
		return 0;
	}
	sb->net_deaths++;
	log_warn("sandbox=%s has no network: %s", sb->record.id, p.message);
	return pause_ms(sb);
}

/* op held. Return: how long to wait first */
static unsigned bury(struct sandbox *sb)
{
	bool young = clock_now_ns() - sb->net_started_ns < YOUNG_NS;

	net_process_stop(&sb->net, deadline_after_ms(STOP_MS));
	sb->net_deaths = young ? sb->net_deaths + 1 : 1;
	return pause_ms(sb);
}

void sandbox_network_died(struct sandbox *sb, pid_t pid)
{
	unsigned wait_ms;

	if (!op_wait(sb))
		return;
	if (sb->net.pid != pid) {
		op_unlock(sb);
		return; /* we ended it */
	}
	wait_ms = bury(sb);
	if (sb->record.state == SANDBOX_RUNNING)
		log_warn("sandbox=%s its dorm-net pid=%d died", sb->record.id, (int)pid);
	op_unlock(sb);
	do {
		uint64_t end = deadline_after_ms(wait_ms);

		while (!deadline_passed(end) && !atomic_load(&sb->host->stopping))
			clock_sleep_ms(MIN(wait_ms, 20u));
		if (!op_wait(sb))
			return;
		wait_ms = atomic_load(&sb->host->stopping) ? 0 : revive(sb);
		op_unlock(sb);
	} while (wait_ms);
}

/* ---- changing it ------------------------------------------------------------------------------
 */

int sandbox_network_check(const json_t *policy, struct problem *problem)
{
	_cleanup_free_ struct rules *rules = malloc(sizeof(*rules));

	return rules ? rules_parse(policy, problem, rules) : -ENOMEM;
}

static void set_policy(struct sandbox *sb, json_t *policy)
{
	LOCK_SCOPE(&sb->info);
	json_incref(policy);
	json_decref(sb->record.network);
	sb->record.network = policy;
}

/* A channel that breaks meanwhile is none: then the repair of the next one tells the guest. */
static int tell_guest(struct sandbox *sb, struct problem *problem)
{
	struct problem local = PROBLEM_INIT;
	json_t *config = sandbox_network_config(sb);
	int r = sb->channel ? agent_network(sb->channel, config, AGENT_MS, &local) : 0;

	json_decref(config);
	if (r < 0)
		problem_pass(problem, &local);
	return error_trace(r);
}

/* op held; it runs, and record.network is the new one already. */
static int apply(struct sandbox *sb, struct problem *problem)
{
	int r;

	if (!sb->record.network) {
		sandbox_network_stop(sb);
		return tell_guest(sb, problem);
	}
	if (sb->net.pid)
		return net_process_set_rules(&sb->net, sb->record.network,
					     deadline_after_ms(AWAIT_MS), problem);
	r = start_and_await(sb, problem);
	return r < 0 ? r : tell_guest(sb, problem);
}

int sandbox_set_network(struct host *host, const char *id, json_t *policy, struct problem *problem)
{
	_cleanup_op_ struct sandbox *sb = sandbox_op_begin(host, id, problem);
	json_t *before;
	bool runs;
	int r;

	if (!sb)
		return -ENOENT;
	op_begin(sb, OP_NETWORK);
	runs = sb->record.state == SANDBOX_RUNNING;
	if (!runs && sb->record.state != SANDBOX_ASLEEP)
		return sandbox_wrong_state(sb, "given another network", problem);
	r = policy ? check_device(sb, problem) : 0;
	if (r < 0)
		return r;
	before = json_incref(sb->record.network);
	set_policy(sb, policy);
	r = runs ? apply(sb, problem) : 0;
	if (r == 0) {
		r = sandbox_write_record(sb, !runs);
		problem_errno(r < 0 ? problem : NULL, r, "recording the network of sandbox %s", id);
	}
	if (r < 0) {
		set_policy(sb, before);
		if (runs && apply(sb, NULL) < 0)
			log_warn("sandbox=%s its network could not be put back", id);
	}
	json_decref(before);
	return error_trace(r);
}

json_t *sandbox_network_counters(struct host *host, const char *id)
{
	_cleanup_(sandbox_unrefp) struct sandbox *sb = sandbox_find(host, id, NULL);
	json_t *counters = NULL;

	if (!sb || !op_try(sb))
		return NULL;
	if (sb->net.pid &&
	    net_process_counters(&sb->net, deadline_after_ms(AGENT_MS / 10), &counters) < 0)
		counters = NULL;
	op_unlock(sb);
	return counters;
}
