/* SPDX-License-Identifier: Apache-2.0 */
#include "api/once.h"

#include <ctype.h>
#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "api/routes.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"

#define DIGITS (REQUEST_ONCE_LEN / 2) /* of the name, and of the body's digest behind it */

struct entry {
	char name[REQUEST_ONCE_LEN + 1];
	uint64_t when_ns; /* it ended; 0: it is under way */
	int status;
	char *text; /* the answer; NULL while there is none */
	size_t len;
};

struct once {
	pthread_mutex_t lock;
	pthread_cond_t ended;
	/* lock */
	struct entry *entries; /* in the order in which they began */
	size_t n, cap, bytes;
};

int once_new(struct once **ret)
{
	struct once *o = calloc(1, sizeof(*o));
	pthread_condattr_t attr;

	if (!o)
		return -ENOMEM;
	pthread_mutex_init(&o->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* as deadlines are */
	pthread_cond_init(&o->ended, &attr);
	pthread_condattr_destroy(&attr);
	*ret = o;
	return 0;
}

struct once *once_free(struct once *o)
{
	if (!o)
		return NULL;
	for (size_t i = 0; i < o->n; i++)
		free(o->entries[i].text);
	free(o->entries);
	pthread_cond_destroy(&o->ended);
	pthread_mutex_destroy(&o->lock);
	free(o);
	return NULL;
}

bool once_applies(request_handler handler)
{
	return handler == control_sandbox_create || handler == control_sandbox_create_1 ||
	       handler == control_sandbox_fork || handler == control_sandbox_snapshot ||
	       handler == control_template_new;
}

/* ---- names ------------------------------------------------------------------------------------
 */

static bool is_key(const char *key)
{
	size_t n = strlen(key);

	for (const char *c = key; *c; c++)
		if (!isprint((unsigned char)*c))
			return false;
	return n >= 1 && n <= ONCE_KEY_MAX;
}

/* Half of a SHA-256, in hexadecimal. */
static int digest(const char *text, size_t len, char *ret)
{
	unsigned char hash[EVP_MAX_MD_SIZE];

	if (EVP_Digest(text, len, hash, NULL, EVP_sha256(), NULL) != 1)
		return -ENOMEM;
	str_hex(hash, DIGITS / 2, ret);
	return 0;
}

int once_name(struct request *q, const char *path, const char *key, struct problem *problem)
{
	_cleanup_free_ char *body = NULL, *who = NULL;
	int r;

	if (!is_key(key)) {
		problem_set(problem, 400, "Idempotency-Key: must be 1 to %u printable characters",
			    ONCE_KEY_MAX);
		return -EINVAL;
	}
	who = str_printf("%s\n%s\n%s", q->caller.key_id, path, key);
	body = json_dumps(q->json, JSON_COMPACT | JSON_SORT_KEYS);
	r = who && body ? digest(who, strlen(who), q->once) : -ENOMEM;
	return r < 0 ? r : digest(body, strlen(body), q->once + DIGITS);
}

/* ---- the table --------------------------------------------------------------------------------
 */

static struct entry *find(struct once *o, const char *name)
{
	for (size_t i = o->n; i-- > 0;)
		if (!memcmp(o->entries[i].name, name, DIGITS))
			return &o->entries[i];
	return NULL;
}

static void drop(struct once *o, struct entry *e)
{
	size_t i = (size_t)(e - o->entries);

	o->bytes -= e->len;
	free(e->text);
	memmove(e, e + 1, (o->n - i - 1) * sizeof(*e));
	o->n--;
}

/* The oldest answer goes. Return: was there one? */
static bool drop_oldest(struct once *o)
{
	for (size_t i = 0; i < o->n; i++)
		if (o->entries[i].when_ns) {
			drop(o, &o->entries[i]);
			return true;
		}
	return false;
}

static void drop_expired(struct once *o)
{
	uint64_t now = clock_now_ns();

	for (size_t i = o->n; i-- > 0;)
		if (o->entries[i].when_ns && now - o->entries[i].when_ns > ONCE_KEEP_NS)
			drop(o, &o->entries[i]);
}

static int add(struct once *o, const char *name, struct problem *problem)
{
	drop_expired(o);
	if (o->n == ONCE_MAX && !drop_oldest(o)) {
		problem_set(problem, 503, "too many requests with an Idempotency-Key");
		return -EBUSY;
	}
	if (mem_grow(&o->entries, &o->cap, o->n, sizeof(*o->entries)) < 0)
		return -ENOMEM;
	o->entries[o->n] = (struct entry){0};
	str_copy(o->entries[o->n++].name, sizeof(o->entries[0].name), name);
	return 0;
}

static int replay(const struct entry *e, struct reply *y)
{
	y->replayed = true;
	return reply_json(y, e->status, json_loadb(e->text, e->len, JSON_DECODE_ANY, NULL));
}

static int wait_for_end(struct once *o, uint64_t deadline_ns)
{
	struct timespec until = {.tv_sec = (time_t)(deadline_ns / NSEC_PER_SEC),
				 .tv_nsec = (long)(deadline_ns % NSEC_PER_SEC)};

	return pthread_cond_timedwait(&o->ended, &o->lock, &until);
}

int once_begin(struct once *o, const struct request *q, uint64_t deadline_ns, struct reply *y)
{
	struct entry *e;
	int r;
	LOCK_SCOPE(&o->lock);

	while ((e = find(o, q->once))) {
		if (strcmp(e->name, q->once)) {
			problem_set(&y->problem, 422,
				    "Idempotency-Key: it came with another request before");
			problem_hint(&y->problem, "a new request needs a new key");
			return -EINVAL;
		}
		if (e->when_ns) {
			r = replay(e, y);
			return r < 0 ? r : 1;
		}
		if (wait_for_end(o, deadline_ns) == ETIMEDOUT) {
			problem_set(&y->problem, 409,
				    "the first request with this key is under way");
			problem_retry(&y->problem, 1);
			return -EBUSY;
		}
	}
	return add(o, q->once, &y->problem); /* nobody has, or who had has failed */
}

void once_end(struct once *o, const struct request *q, const struct reply *y)
{
	char *text = y && y->json ? json_dumps(y->json, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
	struct entry *e;
	LOCK_SCOPE(&o->lock);

	e = find(o, q->once);
	if (!text) {
		drop(o, e);
	} else {
		e->text = text;
		e->len = strlen(text);
		e->status = y->status;
		e->when_ns = clock_now_ns();
		o->bytes += e->len;
		while (o->bytes > ONCE_MAX_BYTES && drop_oldest(o))
			;
	}
	pthread_cond_broadcast(&o->ended);
}
