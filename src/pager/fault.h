/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * fault.h - the threads that answer page faults
 *
 * fault_threads_start() makes them; from then on they wait on the pager's epoll set and serve what
 * becomes readable there, until fault_threads_stop(). Nobody else calls into this file.
 */
struct pager;
struct fault_thread;

/** fault_threads_start() - @n threads, each with its own locked buffers. Return: 0; negative errno
 */
int fault_threads_start(struct pager *p, unsigned n, struct fault_thread **ret);

/** fault_threads_stop() - end them when they have served what they are at; @t may be NULL */
void fault_threads_stop(struct pager *p, struct fault_thread *t);
