/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* filesystem-rpc.h - the unary calls of filesystem.Filesystem; watching is in watch-rpc.h */
#include "agent/router.h"

/** filesystem_rpc_add() - add the routes */
int filesystem_rpc_add(struct router *r);
