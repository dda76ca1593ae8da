/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's memory, seen from outside: the process maps the memory file privately, and a guest
 * frame number is an offset in that file divided by the page size. The kernel may split the mapping
 * (advice, protection), so there is a list of pieces, in the order of the file.
 *
 * The process may have been taken over by its guest and map whatever it likes. The pieces must be
 * ascending and must not overlap, and what lies beyond the guest's memory is left out; then its
 * lies can only spoil its own snapshot.
 *
 * Reading uses the pid. Whether it was still ours is seen afterwards: a pidfd that is not readable
 * means the process lives, so the pid was its own all the time.
 */
#include "vmm/driver.h"

#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "sys/pagemap.h"
#include "sys/procmem.h"

static int compare_offset(const void *a, const void *b)
{
	const struct proc_mapping *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Sort by file offset, cut at the end of the guest's memory. */
static int check_mappings(struct proc_mapping *m, size_t *n, uint64_t memory_bytes)
{
	uint64_t at = 0;

	qsort(m, *n, sizeof(*m), compare_offset);
	for (size_t i = 0; i < *n; i++) {
		uint64_t len = m[i].end - m[i].start;

		if (m[i].offset < at || m[i].offset + len < len)
			return error_trace(-EBADMSG);
		if (m[i].offset >= memory_bytes) {
			*n = i;
			return 0;
		}
		len = MIN(len, memory_bytes - m[i].offset);
		m[i].end = m[i].start + len;
		at = m[i].offset + len;
	}
	return 0;
}

static int still_alive(const struct vmm *v)
{
	int r = pidfd_is_gone(v->pidfd);

	return r > 0 ? -ESRCH : r;
}

int vmm_find_memory(struct vmm *v)
{
	_cleanup_free_ struct proc_mapping *m = NULL;
	size_t n = 0;
	int r = proc_find_mappings(v->pid, v->memory_dev, v->memory_ino, &m, &n);

	if (r == 0)
		r = check_mappings(m, &n, v->memory_bytes);
	if (r == 0)
		r = still_alive(v);
	if (r < 0)
		return r;
	free(v->mappings);
	v->mappings = take_ptr(m);
	v->n_mappings = n;
	return 0;
}

/* Ranges of addresses in one mapping become ranges of guest frames. */
static int add_ranges(struct vmm_range **ranges, size_t *n, const struct proc_mapping *m,
		      const struct pagemap_list *l)
{
	struct vmm_range *p = realloc(*ranges, MAX((*n + l->n) * sizeof(*p), (size_t)1));

	if (!p)
		return -ENOMEM;
	*ranges = p;
	for (size_t i = 0; i < l->n; i++) {
		uint64_t gfn = (l->items[i].start - m->start + m->offset) >> DORM_PAGE_SHIFT;

		if (*n && p[*n - 1].gfn + p[*n - 1].n_pages == gfn)
			p[*n - 1].n_pages += l->items[i].n_pages;
		else
			p[(*n)++] = (struct vmm_range){gfn, l->items[i].n_pages};
	}
	return 0;
}

int vmm_scan(struct vmm *v, struct vmm_range **ret, size_t *ret_n)
{
	_cleanup_free_ struct vmm_range *ranges = NULL;
	_cleanup_fd_ int fd = -1;
	size_t n = 0;
	int r = vmm_find_memory(v);

	if (r < 0)
		return error_trace(r);
	fd = pagemap_open(v->pid);
	if (fd < 0)
		return fd;
	for (size_t i = 0; i < v->n_mappings && r == 0; i++) {
		struct pagemap_list l = {0};

		r = pagemap_written(fd, v->mappings[i].start, v->mappings[i].end, &l);
		if (r == 0)
			r = add_ranges(&ranges, &n, &v->mappings[i], &l);
		pagemap_list_deinit(&l);
	}
	if (r == 0)
		r = still_alive(v);
	if (r < 0)
		return error_trace(r);
	*ret = take_ptr(ranges);
	*ret_n = n;
	return 0;
}

/* The piece that holds @offset, or NULL. Pieces are few: one, in practice. */
static const struct proc_mapping *find_piece(const struct vmm *v, uint64_t offset)
{
	for (size_t i = 0; i < v->n_mappings; i++) {
		const struct proc_mapping *m = &v->mappings[i];

		if (offset >= m->offset && offset - m->offset < m->end - m->start)
			return m;
	}
	return NULL;
}

int vmm_read(struct vmm *v, uint64_t gfn, uint64_t n_pages, void *out)
{
	uint64_t n_all = v->memory_bytes >> DORM_PAGE_SHIFT, offset, end;
	char *to = out;

	if (gfn > n_all || n_pages > n_all - gfn)
		return error_trace(-EINVAL);
	offset = gfn << DORM_PAGE_SHIFT;
	end = offset + (n_pages << DORM_PAGE_SHIFT);
	while (offset < end) {
		const struct proc_mapping *m = find_piece(v, offset);
		struct iovec range;
		int r;

		if (!m)
			return error_trace(-EFAULT);
		range.iov_base = (void *)(m->start + (offset - m->offset));
		range.iov_len = MIN(end - offset, m->end - m->start - (offset - m->offset));
		r = procmem_read(v->pid, &range, 1, to);
		if (r < 0)
			return r;
		to += range.iov_len;
		offset += range.iov_len;
	}
	return still_alive(v);
}

int vmm_memory_use(struct vmm *v, struct vmm_memory_use *ret)
{
	_cleanup_fd_ int fd = pagemap_open(v->pid);
	struct proc_memory process;
	struct vmm_memory_use use = {0};
	int r = fd < 0 ? fd : proc_memory_use(v->pid, &process);

	for (size_t i = 0; i < v->n_mappings && r == 0; i++) {
		struct pagemap_count c = {0};

		r = pagemap_count(fd, v->mappings[i].start, v->mappings[i].end, &c);
		use.private_pages += c.written;
		use.shared_pages += c.shared;
	}
	if (r == 0)
		r = still_alive(v);
	if (r < 0)
		return error_trace(r);
	use.pss_bytes = process.pss_bytes;
	use.rss_bytes = process.rss_bytes;
	use.private_bytes = process.private_bytes;
	*ret = use;
	return 0;
}

int vmm_needs_pager(struct vmm *v)
{
	int r = proc_has_userfaultfd(v->pid, v->memory_dev, v->memory_ino);

	if (r < 0)
		return error_trace(r);
	return still_alive(v) < 0 ? -ESRCH : r;
}
