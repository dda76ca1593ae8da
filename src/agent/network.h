/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * network.h - the guest's network interface, as the host wants it
 *
 * The host sends {"address": "10.0.2.15", "prefix": 24, "gateway": "10.0.2.2", "gatewayMac":
 * "52:54:...", "dns": "10.0.2.3", "mtu": 1500, "address6": "fd64::15", "prefix6": 64, "gateway6":
 * "fd64::2"}; the last three may be absent. It does so in POST /init, as a step of the repair, and
 * in POST /network when it changes in between. Nothing in place of it means: no network, interface
 * down.
 *
 * Every sandbox has the same address, so a woken one finds everything as it left it, and then this
 * does nothing: what was last set up is remembered.
 */
#include "agent/router.h"
#include "base/problem.h"

struct network;

int network_new(bool owns_machine, struct network **ret);
struct network *network_free(struct network *n);

/**
 * network_repair() - make the interface as @config says
 * @config: an object as above; NULL or null: down
 * Return: 0; -EINVAL when @config is not as above; -ENODEV when the VM has no such device; negative
 * errno
 */
int network_repair(struct network *n, const json_t *config);

/** network_add() - POST /network {"network": config} */
int network_add(struct router *r);
