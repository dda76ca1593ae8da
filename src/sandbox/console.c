/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console.c - what guests wrote on their consoles, also after the VM has gone
 *
 * The VMM keeps the last 64 KiB of a running guest. When a VM ends, for whatever reason but that
 * its sandbox is deleted, they are added to sandboxes/<id>/console.log, of which the last
 * CONSOLE_KEPT bytes are kept: sleeping, failed and woken sandboxes still have what came before.
 * It is for people: losing it is only logged.
 */
#include "sandbox/private.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"

#define CONSOLE_NAME "console.log"
#define CONSOLE_KEPT (64u << 10)
#define ASK_MS	     1000
#define LOCK_MS	     200

/* The end of @text, at the beginning of a line if it was cut. */
static const char *tail(const char *text, size_t *len)
{
	const char *line;

	if (*len <= CONSOLE_KEPT)
		return text;
	text += *len - CONSOLE_KEPT;
	*len = CONSOLE_KEPT;
	line = memchr(text, '\n', *len);
	if (!line)
		return text;
	*len -= (size_t)(line + 1 - text);
	return line + 1;
}

/* op held. Appends what the VM that runs, or has just ended, has to say. */
static int read_vm(struct sandbox *sb, struct buf *b)
{
	_cleanup_free_ char *text = malloc(CONSOLE_KEPT + 1);
	int r = text ? vmm_console(sb->vmm, text, CONSOLE_KEPT + 1, deadline_after_ms(ASK_MS))
		     : -ENOMEM;

	return r < 0 ? r : buf_append(b, text, strlen(text));
}

static int read_file(struct sandbox *sb, struct buf *b)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = file_read(sb->dirfd, CONSOLE_NAME, 2 * CONSOLE_KEPT, &text, &len);

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	return buf_append(b, text, len);
}

void sandbox_keep_console(struct sandbox *sb)
{
	_cleanup_buf_ struct buf b = {0};
	const char *kept;
	size_t len;
	int r;

	if (!sb->vmm || sb->record.state == SANDBOX_DELETING)
		return;
	r = read_file(sb, &b);
	len = b.len;
	if (r == 0)
		r = read_vm(sb, &b);
	if (r == 0 && b.len > len) {
		len = b.len;
		kept = tail((const char *)b.data, &len);
		r = file_replace(sb->dirfd, CONSOLE_NAME, kept, len, 0600);
	}
	if (r < 0)
		log_info("sandbox=%s what its console said is lost: %s", sb->record.id,
			 strerrordesc_np(-r));
}

int sandbox_console(struct host *host, const char *id, struct problem *problem, char **ret,
		    uint64_t *ret_since_ns)
{
	_cleanup_(sandbox_unrefp) struct sandbox *sb = sandbox_find(host, id, problem);
	_cleanup_buf_ struct buf b = {0};
	int r;

	if (!sb)
		return -ENOENT;
	pthread_mutex_lock(&sb->info);
	*ret_since_ns = sb->record.started_ns ? sb->record.started_ns : sb->record.created_ns;
	pthread_mutex_unlock(&sb->info);
	r = read_file(sb, &b);
	/* whoever works on it now goes first: what the VM says can be asked for again */
	if (r == 0 && deadline_lock(&sb->op, deadline_after_ms(LOCK_MS)) == 0) {
		if (sb->vmm)
			(void)read_vm(sb, &b); /* one that has just ended may have nothing */
		pthread_mutex_unlock(&sb->op);
	}
	if (r == 0)
		r = buf_append(&b, "", 1);
	if (r < 0) {
		problem_errno(problem, r, "the console of sandbox %s", id);
		return error_trace(r);
	}
	*ret = (char *)take_ptr(b.data);
	b = (struct buf){0};
	return 0;
}
