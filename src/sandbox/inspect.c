/* SPDX-License-Identifier: Apache-2.0 */
/* inspect.c - looking at sandboxes, and borrowing their channels */
#include "sandbox/private.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "sandbox/agent-client.h"

#define REPAIR_ASK_MS 1000

/* ---- looking ----------------------------------------------------------------------------------
 */

void sandbox_info_deinit(struct sandbox_info *info)
{
	json_decref(info->metadata);
	explicit_bzero(info->token, sizeof(info->token));
	json_decref(info->network);
	*info = (struct sandbox_info){0};
}

/* What the guest can write to; without a disk for that, what it can read. */
static uint64_t disk_bytes(const struct manifest *m)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < m->n_disks; i++)
		if (!m->disks[i].read_only && m->disks[i].virtual_bytes)
			return m->disks[i].virtual_bytes;
	for (uint32_t i = 0; i < m->n_disks; i++)
		bytes += m->disks[i].size;
	return bytes;
}

static void fill_info(struct sandbox *sb, struct sandbox_info *ret)
{
	LOCK_SCOPE(&sb->info);
	*ret = (struct sandbox_info){
		.state = sb->record.state,
		.created_ns = sb->record.created_ns,
		.started_ns = sb->record.started_ns ? sb->record.started_ns : sb->record.created_ns,
		.end_ns = sb->record.end_ns,
		.auto_pause = sb->record.auto_pause,
		.auto_pause_disk = sb->record.auto_pause_disk,
		.auto_resume = sb->record.auto_resume,
		.disk_only = sb->record.disk_only,
		.cpus = sb->manifest.cpus,
		.memory_bytes = sb->manifest.memory_bytes,
		.metadata = json_incref(sb->record.metadata),
		.network = json_incref(sb->record.network),
	};
	memcpy(ret->id, sb->record.id, sizeof(ret->id));
	memcpy(ret->template_id, sb->record.template_id, sizeof(ret->template_id));
	memcpy(ret->request, sb->record.request, sizeof(ret->request));
	memcpy(ret->token, sb->record.token, sizeof(ret->token));
	memcpy(ret->owner, sb->record.owner, sizeof(ret->owner));
	memcpy(ret->failure, sb->record.failure, sizeof(ret->failure));
	memcpy(ret->traffic_token, sb->record.traffic_token, sizeof(ret->traffic_token));
	memcpy(ret->mask_host, sb->record.mask_host, sizeof(ret->mask_host));
	ret->disk_bytes = disk_bytes(&sb->manifest);
	ret->stalled = sb->stalled;
	if (sb->doing.kind != OP_NONE) {
		ret->operation = op_kind_name(sb->doing.kind);
		ret->step = op_step_name(sb->doing.step);
		ret->operation_ns = sb->doing.since_real_ns;
	}
	if (atomic_load(&sb->doomed))
		ret->state = SANDBOX_DELETING;
}

int sandbox_info(struct host *host, const char *id, struct problem *problem,
		 struct sandbox_info *ret)
{
	_cleanup_(sandbox_unrefp) struct sandbox *sb = sandbox_find(host, id, problem);

	if (!sb)
		return -ENOENT;
	fill_info(sb, ret);
	return 0;
}

bool sandbox_is_pooled(struct sandbox *sb)
{
	LOCK_SCOPE(&sb->info);
	return sb->pooled;
}

int host_each_sandbox(struct host *host, void (*visit)(void *userdata, struct sandbox *sb),
		      void *userdata)
{
	_cleanup_free_ struct sandbox **all = NULL;
	size_t n;

	pthread_mutex_lock(&host->lock);
	n = host->n_sandboxes;
	all = calloc(n + 1, sizeof(*all));
	for (size_t i = 0; all && i < n; i++)
		all[i] = sandbox_ref(host->sandboxes[i]);
	pthread_mutex_unlock(&host->lock);
	if (!all)
		return -ENOMEM;
	for (size_t i = n; i-- > 0;) {
		visit(userdata, all[i]);
		sandbox_unref(all[i]);
	}
	return 0;
}

struct each {
	sandbox_visit visit;
	void *userdata;
};

static void visit_info(void *userdata, struct sandbox *sb)
{
	struct each *each = userdata;
	struct sandbox_info info;

	fill_info(sb, &info);
	if (info.state != SANDBOX_CREATING && info.state != SANDBOX_DELETING)
		each->visit(each->userdata, &info);
	sandbox_info_deinit(&info);
}

int sandbox_each(struct host *host, sandbox_visit visit, void *userdata)
{
	struct each each = {.visit = visit, .userdata = userdata};

	return host_each_sandbox(host, visit_info, &each);
}

struct made_by {
	const char *request;
	char id[ID_LEN + 1];
};

static void look_for_request(void *userdata, const struct sandbox_info *info)
{
	struct made_by *m = userdata;

	if (!memcmp(info->request, m->request, SANDBOX_REQUEST_LEN / 2))
		memcpy(m->id, info->id, sizeof(m->id));
}

int sandbox_made_by(struct host *host, const char *request, struct sandbox_info *ret)
{
	struct made_by m = {.request = request};
	int r = sandbox_each(host, look_for_request, &m);

	if (r == 0)
		r = m.id[0] ? sandbox_info(host, m.id, NULL, ret) : -ENOENT;
	return r;
}

static json_t *describe_memory(struct sandbox *sb)
{
	const struct image_writer_stats *st = &sb->manifest.stats;
	struct vmm_memory_use use = {0};
	json_int_t own, shared;
	json_t *pager = NULL, *o;

	if (sb->vmm)
		(void)vmm_memory_use(sb->vmm, &use); /* a VM that is just dying shows zeros */
	if (sb->pager_pid)
		(void)pager_client_session_stats(sb->host->pager, sb->record.id,
						 deadline_after_ms(1000), &pager); /* null then */
	own = (json_int_t)use.private_pages * (json_int_t)DORM_PAGE_SIZE;
	shared = (json_int_t)use.shared_pages * (json_int_t)DORM_PAGE_SIZE;
	o = json_pack(
		"{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:{s:s, s:s, s:I, s:I, s:I}, s:o, s:o}",
		"sandboxID", sb->record.id, "status", sandbox_state_name(sb->record.state),
		"memoryBytes", (json_int_t)sb->manifest.memory_bytes, "ownBytes", own,
		"sharedBytes", shared, "vmmRssBytes", (json_int_t)use.rss_bytes, "vmmPssBytes",
		(json_int_t)use.pss_bytes, "vmmPrivateBytes", (json_int_t)use.private_bytes,
		"stored", "imageID", sb->manifest.image_id, "baseImageID",
		sb->manifest.base_image_id, "layerBytes", (json_int_t)st->bytes_stored,
		"layerPages", (json_int_t)st->pages_stored, "mapBytes", (json_int_t)st->map_bytes,
		"disk", sandbox_describe_disk(sb), "pager", pager ? pager : json_null());
	return o;
}

int sandbox_memory(struct host *host, const char *id, struct problem *problem, json_t **ret)
{
	_cleanup_op_ struct sandbox *sb = sandbox_op_begin(host, id, problem);
	json_t *o;

	if (!sb)
		return -ENOENT;
	o = describe_memory(sb);
	if (!o)
		return -ENOMEM;
	*ret = o;
	return 0;
}

/* ---- leases -----------------------------------------------------------------------------------
 */

int sandbox_lease(struct host *host, const char *id, struct problem *problem,
		  struct sandbox_lease *ret)
{
	_cleanup_(sandbox_unrefp) struct sandbox *sb = sandbox_find(host, id, NULL);
	enum sandbox_state state = SANDBOX_FAILED;
	struct channel *channel = NULL;
	bool stalled = false;

	if (sb) {
		LOCK_SCOPE(&sb->info);
		state = sb->record.state;
		stalled = sb->stalled;
		/* a request that finds it falling asleep would rather wake it than be cut off */
		if (sb->channel && channel_is_open(sb->channel) &&
		    !(state == SANDBOX_PAUSING && sb->record.auto_resume))
			channel = channel_ref(sb->channel);
		if (channel) {
			*ret = (struct sandbox_lease){.channel = channel};
			memcpy(ret->traffic_token, sb->record.traffic_token,
			       sizeof(ret->traffic_token));
			memcpy(ret->mask_host, sb->record.mask_host, sizeof(ret->mask_host));
			return 0;
		}
	}
	/* the text that clients match; pausing and waking are worth a retry */
	if (state == SANDBOX_PAUSING || state == SANDBOX_WAKING)
		problem_set(problem, 409, "The sandbox is changing state");
	else
		problem_set(problem, 502, "The sandbox was not found");
	if (state == SANDBOX_RUNNING) {
		problem_hint(problem,
			     stalled ? "sandbox %s stands still: the host's disk is full"
				     : "sandbox %s is running but its guest does not answer",
			     id);
		sandbox_reconnect(sb);
	} else if (sb) {
		problem_hint(problem, "sandbox %s is %s", id, sandbox_state_name(state));
	}
	return sb ? -ENOTCONN : -ENOENT;
}

void sandbox_lease_return(struct sandbox_lease *lease)
{
	channel_free(lease->channel);
	*lease = (struct sandbox_lease){0};
}

json_t *sandbox_last_repair(struct host *host, const char *id)
{
	struct sandbox_lease lease;
	json_t *steps;

	if (sandbox_lease(host, id, NULL, &lease) < 0)
		return NULL;
	steps = agent_last_repair(lease.channel, deadline_after_ms(REPAIR_ASK_MS));
	sandbox_lease_return(&lease);
	return steps;
}
