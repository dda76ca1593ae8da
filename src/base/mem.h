/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * mem.h - ownership of heap memory and locks by scope
 *
 *     _cleanup_free_ char *s = NULL;      freed when the scope is left
 *     LOCK_SCOPE(&p->lock);               a pthread mutex held until the scope is left
 *     return take_ptr(s);                 hand the value on, leaving NULL behind
 */
#include <pthread.h>
#include <stdlib.h>

static inline void mem_freep(void *p)
{
	free(*(void **)p);
}

static inline void mem_unlockp(pthread_mutex_t **m)
{
	if (*m)
		pthread_mutex_unlock(*m);
}

static inline pthread_mutex_t *mem_lock(pthread_mutex_t *m)
{
	pthread_mutex_lock(m);
	return m;
}

#define _cleanup_(_f)  __attribute__((cleanup(_f)))
#define _cleanup_free_ _cleanup_(mem_freep)

/** DEFINE_CLEANUP() - for `struct x *x_free(struct x *)`, define x_freep() for _cleanup_() */
#define DEFINE_CLEANUP(_type, _func)                                                               \
	static inline __attribute__((unused)) void _func##p(_type *p)                              \
	{                                                                                          \
		if (*p)                                                                            \
			_func(*p);                                                                 \
	}

/** take_ptr() - the value of a pointer variable, which becomes NULL */
#define take_ptr(_p)                                                                               \
	({                                                                                         \
		__auto_type _take = (_p);                                                          \
		(_p) = NULL;                                                                       \
		_take;                                                                             \
	})

/** take_fd() - the value of a descriptor variable, which becomes -1 */
#define take_fd(_fd)                                                                               \
	({                                                                                         \
		int _take = (_fd);                                                                 \
		(_fd) = -1;                                                                        \
		_take;                                                                             \
	})

/**
 * mem_grow() - room for one more element in an array
 * @array: address of the pointer; @cap: elements there is room for; @n: elements in it
 * Return: 0; -ENOMEM, with nothing changed
 */
int mem_grow(void *array, size_t *cap, size_t n, size_t size);

#define LOCK_CAT2(a, b) a##b
#define LOCK_CAT(a, b)	LOCK_CAT2(a, b)
#define LOCK_SCOPE(_m)                                                                             \
	_cleanup_(mem_unlockp) pthread_mutex_t *LOCK_CAT(lock_, __LINE__)                          \
		__attribute__((unused)) = mem_lock(_m)

#define ARRAY_SIZE(_a) (sizeof(_a) / sizeof(*(_a)))
#define MIN(_a, _b)                                                                                \
	({                                                                                         \
		__auto_type _x = (_a);                                                             \
		__auto_type _y = (_b);                                                             \
		_x < _y ? _x : _y;                                                                 \
	})
#define MAX(_a, _b)                                                                                \
	({                                                                                         \
		__auto_type _x = (_a);                                                             \
		__auto_type _y = (_b);                                                             \
		_x > _y ? _x : _y;                                                                 \
	})
#define container_of(_ptr, _type, _member) ((_type *)((char *)(_ptr)-offsetof(_type, _member)))

/* The one page size of this program: guest and host pages of x86-64. */
#define DORM_PAGE_SIZE	4096ul
#define DORM_PAGE_SHIFT 12
