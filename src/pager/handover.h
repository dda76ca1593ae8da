/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * handover.h - the other way to begin: a pager that runs makes room for this one
 *
 * The one that runs stops its threads between two events, so that nothing is half done, brings the
 * journal up to date, answers, and ends without a word to its VMs. What follows is what follows a
 * crash (takeover.h).
 */
#include "base/problem.h"

/**
 * handover_ask() - and wait for the answer
 * @ret_listener: its control socket, where clients wait meanwhile; -1: there is none
 * Return: 0, also when nobody serves the socket; -EOPNOTSUPP it cannot; negative errno, @problem
 * says
 */
int handover_ask(const char *socket_path, struct problem *problem, int *ret_listener);
