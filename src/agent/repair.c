/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random numbers: forks of one snapshot draw identical bytes from getrandom() until they are
 * reseeded. RNDADDENTROPY alone changes nothing, because the kernel's generator reseeds by itself
 * only after minutes; RNDRESEEDCRNG makes it happen now. Both, in this order: random(4).
 *
 * The clock stands where the snapshot was taken; the host's time in the message is late by the time
 * the message took, well under a millisecond.
 */
#include "agent/repair.h"

#include <fcntl.h>
#include <linux/random.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "agent/ports.h"
#include "agent/prepare.h"
#include "base/base64.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/problem.h"
#include "base/str.h"

#define ENTROPY_MIN	32
#define ENTROPY_MAX	512
#define CLOCK_TOLERANCE NSEC_PER_MSEC

struct repair {
	struct agent *agent;
	const char *sandbox_id;
	const char *hostname;
	uint64_t timestamp_ns;
	json_t *env; /* of the request; borrowed, may be NULL */
	size_t entropy_len;
	/* as RNDADDENTROPY wants it */
	struct {
		int bits;
		int len;
		uint8_t data[ENTROPY_MAX];
	} entropy;
};

/* --- steps: 0 or negative errno -----------------------------------------------------------------
 */

static int repair_identity(struct repair *rp)
{
	json_t *env = json_object();
	int r = env ? 0 : -ENOMEM;

	if (r == 0 && rp->env && json_object_update(env, rp->env) < 0)
		r = -ENOMEM;
	if (r == 0 && (json_object_set_new(env, "E2B_SANDBOX", json_string("true")) < 0 ||
		       json_object_set_new(env, "E2B_SANDBOX_ID", json_string(rp->sandbox_id)) < 0))
		r = -ENOMEM;
	if (r == 0 && rp->agent->owns_machine &&
	    sethostname(rp->hostname, strlen(rp->hostname)) < 0)
		r = error_errno();
	if (r < 0) {
		json_decref(env);
		return r;
	}
	json_decref(rp->agent->env);
	rp->agent->env = env;
	return 0;
}

static int repair_clock(struct repair *rp)
{
	const struct timespec ts = {.tv_sec = (time_t)(rp->timestamp_ns / NSEC_PER_SEC),
				    .tv_nsec = (long)(rp->timestamp_ns % NSEC_PER_SEC)};
	uint64_t now_ns = clock_real_ns();
	uint64_t off_ns =
		now_ns > rp->timestamp_ns ? now_ns - rp->timestamp_ns : rp->timestamp_ns - now_ns;

	if (off_ns <= CLOCK_TOLERANCE || !rp->agent->owns_machine)
		return 0;
	return clock_settime(CLOCK_REALTIME, &ts) < 0 ? error_errno() : 0;
}

static int repair_random(struct repair *rp)
{
	int fd = rp->agent->random_fd;

	if (!rp->agent->owns_machine)
		return 0;
	rp->entropy.len = (int)rp->entropy_len;
	rp->entropy.bits = (int)rp->entropy_len * 8;
	if (ioctl(fd, RNDADDENTROPY, &rp->entropy) < 0 || ioctl(fd, RNDRESEEDCRNG, 0) < 0)
		return error_errno();
	return 0;
}

static int repair_thaw(struct repair *rp)
{
	int r = cgroup_set_frozen(&rp->agent->workload, false);

	return r == -ENODEV && !rp->agent->owns_machine ? 0 : r;
}

static const struct {
	const char *name;
	int (*run)(struct repair *rp);
} steps[] = {
	{"identity", repair_identity},
	{"clock", repair_clock},
	{"random", repair_random},
	{"thaw", repair_thaw},
};

/* --- the request --------------------------------------------------------------------------------
 */

static int bad_field(struct problem *problem, const char *field, const char *what)
{
	problem_set(problem, 400, "%s must be %s", field, what);
	return -EINVAL;
}

static int parse_entropy(json_t *o, struct repair *rp, struct problem *problem)
{
	static const char what[] = "base64 text of 32 to 512 bytes";
	const char *text = json_string_value(o);
	size_t len = json_string_length(o);
	ssize_t n;

	if (!text || len > ENTROPY_MAX / 3 * 4)
		return bad_field(problem, "entropy", what);
	n = base64_decode(text, len, rp->entropy.data);
	if (n < ENTROPY_MIN)
		return bad_field(problem, "entropy", what);
	rp->entropy_len = (size_t)n;
	return 0;
}

static int parse_timestamp(json_t *o, struct repair *rp)
{
	if (json_is_string(o))
		return str_to_u64(json_string_value(o), &rp->timestamp_ns);
	if (!json_is_integer(o) || json_integer_value(o) <= 0)
		return -EINVAL;
	rp->timestamp_ns = (uint64_t)json_integer_value(o);
	return 0;
}

static bool env_is_valid(json_t *env)
{
	const char *name;
	json_t *value;

	if (!env || json_is_null(env))
		return true;
	json_object_foreach (env, name, value)
		if (!json_is_string(value) || !name[0] || strchr(name, '='))
			return false;
	return json_is_object(env);
}

static int repair_parse(json_t *o, struct repair *rp, struct problem *problem)
{
	json_t *env = json_object_get(o, "envVars");

	rp->sandbox_id = json_string_value(json_object_get(o, "sandboxID"));
	rp->hostname = json_string_value(json_object_get(o, "hostname"));
	if (!rp->sandbox_id || !rp->sandbox_id[0])
		return bad_field(problem, "sandboxID", "a non-empty string");
	if (!rp->hostname || !rp->hostname[0] || strlen(rp->hostname) > 64)
		return bad_field(problem, "hostname", "a string of 1 to 64 bytes");
	if (parse_timestamp(json_object_get(o, "timestampNs"), rp) < 0 || !rp->timestamp_ns)
		return bad_field(problem, "timestampNs", "nanoseconds since the epoch");
	if (!env_is_valid(env))
		return bad_field(problem, "envVars", "an object of strings");
	rp->env = json_is_object(env) ? env : NULL;
	return parse_entropy(json_object_get(o, "entropy"), rp, problem);
}

/*
 * Return: NULL when all went well, otherwise the name of the step that did not, and why in @ret_r.
 * No report of what went well: this is the first thing that runs after a wake, and under emulation
 * every line of it is translated first.
 */
static const char *repair_run(struct repair *rp, int *ret_r)
{
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		*ret_r = steps[i].run(rp);
		if (*ret_r < 0)
			return steps[i].name;
	}
	return NULL;
}

static void handle_init(struct request *rq)
{
	struct problem problem = PROBLEM_INIT;
	struct repair rp = {.agent = rq->agent};
	json_t *o = json_loadb(rq->body.data ?: "", rq->body.len, 0, NULL);
	const char *failed;
	int r;

	if (repair_parse(o, &rp, &problem) < 0) {
		request_fail(rq, problem.status, "%s", problem.message);
		json_decref(o);
		return;
	}
	prepare_cancel(rq->agent->prepare); /* or it would freeze what we thaw */
	failed = repair_run(&rp, &r);
	rq->agent->ready = !failed;
	if (!failed)
		ports_resume(rq->agent);
	if (failed)
		request_reply_json(
			rq, 500,
			json_pack("{s:i, s:o}", "code", 500, "message",
				  json_sprintf("step %s failed: %s", failed, strerrordesc_np(-r))));
	else
		request_reply_json(rq, 200, json_pack("{s:b}", "ok", 1));
	json_decref(o);
}

static const struct route routes[] = {{"POST", "/init", handle_init, 0}};

int repair_add(struct router *r)
{
	return router_add(r, routes, ARRAY_SIZE(routes));
}
