// SPDX-License-Identifier: Apache-2.0
// run.mjs TEMPLATE [CASE...] - the unmodified E2B client against a running dormd
//
// Where dormd is comes from the client's own variables: E2B_API_KEY, E2B_API_URL, E2B_SANDBOX_URL.
// Every case of cases.mjs runs on a new sandbox, then, unless it is about the control API alone, on
// a fork of that. A line for each: "ok NAME", "not ok NAME: why"; tests/e2e/test_sdk.py reads them.
import { Sandbox } from 'e2b'
import * as cases from './cases.mjs'

const CASE_MS = 90_000
const [template, ...wanted] = process.argv.slice(2)

function limited(promise, ms) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no end after ${ms} ms`)), ms)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

async function run(name, fn, sandbox) {
  if (wanted.length && !wanted.some((w) => name.includes(w))) return
  try {
    await limited(fn(sandbox, template), CASE_MS)
    console.log(`ok ${name}`)
  } catch (e) {
    const why = `${e.name}: ${e.message} ${e.stack?.split('\n').find((l) => l.includes('cases.mjs')) ?? ''}`
    console.log(`not ok ${name}: ${why.replaceAll('\n', ' ').slice(0, 600)}`)
  }
}

const named = Object.entries(cases).filter(([, fn]) => typeof fn === 'function')
const control = named.filter(([name]) => name.startsWith('control_'))
const inside = named.filter(([name]) => !name.startsWith('control_'))

for (const [name, fn] of control) await run(name, fn)
if (!wanted.length || inside.some(([name]) => wanted.some((w) => `${name} fork_${name}`.includes(w)))) {
  const sandbox = await Sandbox.create(template, { timeoutMs: 1_800_000 })
  for (const [name, fn] of inside) await run(name, fn, sandbox)
  const [fork] = await sandbox.fork({ timeoutMs: 1_800_000 })
  if (fork instanceof Error) throw fork
  for (const [name, fn] of inside) await run(`fork_${name}`, fn, fork)
  await fork.kill()
  await sandbox.kill()
}
process.exit(0) // whatever a failed case has left open
