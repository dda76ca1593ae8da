/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * traffic.h - who may reach the ports of a sandbox through dormd, and under which host name
 *
 * Traffic to ports is public to whoever reaches dormd, unless the sandbox was created with
 * network.allowPublicTraffic false: then it has a token of its own, fresh for every sandbox and
 * every fork, kept while it sleeps, which each request has to show. The agent's API is not meant:
 * it has the access token.
 */
#define TRAFFIC_TOKEN_LEN 48
#define TRAFFIC_HOST_MAX  255

/** traffic_token_new() - a fresh token */
void traffic_token_new(char out[TRAFFIC_TOKEN_LEN + 1]);
