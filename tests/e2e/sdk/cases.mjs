// SPDX-License-Identifier: Apache-2.0
// What a client of the SDK may expect. Each case gets a sandbox that others have used before, and
// cleans up no more than it must: names are its own.
import assert from 'node:assert/strict'
import http from 'node:http'
import { createHash, randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  AuthenticationError, CommandExitError, FileNotFoundError, FileType, InvalidArgumentError,
  NotFoundError, Sandbox, SandboxNotFoundError, TimeoutError,
} from 'e2b'

const MISSING = 'i00000000000000000000'

async function until(what, ms, condition) {
  const end = Date.now() + ms
  for (;;) {
    const value = await condition()
    if (value) return value
    if (Date.now() > end) throw new Error(`after ${ms} ms still not: ${what}`)
    await sleep(50)
  }
}

const digest = (data) => createHash('sha256').update(data).digest('hex')

// --- the control API ----------------------------------------------------------------------------

export async function control_create_list_kill(_, template) {
  const a = await Sandbox.create(template, { timeoutMs: 120_000, metadata: { k: 'v w' }, envs: { COLOUR: 'blue' } })
  try {
    assert.match(a.sandboxId, /^[a-z0-9]+$/)
    assert.equal((await a.commands.run('echo $COLOUR')).stdout, 'blue\n')
    const info = await a.getInfo()
    assert.equal(info.sandboxId, a.sandboxId)
    assert.equal(info.state, 'running')
    assert.deepEqual(info.metadata, { k: 'v w' })
    assert.ok(info.endAt - info.startedAt > 60_000 && info.endAt - info.startedAt <= 125_000)
    const listed = await Sandbox.list({ query: { metadata: { k: 'v w' } } }).nextItems()
    assert.deepEqual(listed.map((s) => s.sandboxId), [a.sandboxId])
    assert.deepEqual(await Sandbox.list({ query: { metadata: { k: 'no' } } }).nextItems(), [])
    await a.setTimeout(300_000)
    assert.ok((await a.getInfo()).endAt - Date.now() > 200_000)
    assert.equal(await a.isRunning(), true)
  } finally {
    assert.equal(await a.kill(), true)
  }
  assert.equal(await a.kill(), false)
  assert.equal(await a.isRunning(), false)
  await assert.rejects(a.getInfo(), SandboxNotFoundError)
}

export async function control_missing() {
  assert.equal(await Sandbox.kill(MISSING), false)
  await assert.rejects(Sandbox.connect(MISSING), SandboxNotFoundError)
  await assert.rejects(Sandbox.pause(MISSING), SandboxNotFoundError)
  await assert.rejects(Sandbox.create('no-such-template'), /no-such-template/)
}

export async function control_key_and_token(_, template) {
  await assert.rejects(Sandbox.list({ apiKey: 'e2b_' + '0'.repeat(40) }).nextItems(), AuthenticationError)
  const a = await Sandbox.create(template)
  try {
    const request = (token) => fetch(`${process.env.E2B_SANDBOX_URL}/process.Process/List`, {
      method: 'POST',
      body: '{}',
      headers: {
        'content-type': 'application/json', 'e2b-sandbox-id': a.sandboxId,
        'e2b-sandbox-port': '49983', ...(token && { 'x-access-token': token }),
      },
    })
    assert.equal((await request()).status, 401)
    assert.equal((await request('wrong')).status, 401)
    assert.equal((await request(a.envdAccessToken)).status, 200)
  } finally {
    await a.kill()
  }
}

export async function control_snapshot(_, template) {
  const a = await Sandbox.create(template)
  try {
    await a.files.write('/home/user/kept', 'of the snapshot')
    const snapshot = await a.createSnapshot()
    await a.files.write('/home/user/kept', 'changed')
    const listed = await a.listSnapshots().nextItems()
    assert.deepEqual(listed.map((s) => s.snapshotId), [snapshot.snapshotId])
    const b = await Sandbox.create(snapshot.snapshotId)
    assert.equal(await b.files.read('/home/user/kept'), 'of the snapshot')
    assert.equal(await a.files.read('/home/user/kept'), 'changed')
    assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), true)
    assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), false)
    assert.equal(await b.files.read('/home/user/kept'), 'of the snapshot')
    await b.kill()
  } finally {
    await a.kill()
  }
}

export async function control_forks_differ(_, template) {
  const a = await Sandbox.create(template)
  const forks = await a.fork({ count: 3, timeoutMs: 120_000 })
  try {
    assert.equal(forks.length, 3)
    const seen = new Set()
    for (const s of [a, ...forks]) {
      assert.ok(!(s instanceof Error), String(s))
      const { stdout } = await s.commands.run('hostname; head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/uuid; echo $E2B_SANDBOX_ID; date +%s')
      const lines = stdout.trim().split('\n')
      assert.equal(lines[0], s.sandboxId)
      assert.equal(lines[3], s.sandboxId)
      assert.ok(Math.abs(Number(lines[4]) * 1000 - Date.now()) < 3000, `the clock says ${lines[4]}`)
      for (const value of [s.envdAccessToken, ...lines.slice(0, 3)]) {
        assert.ok(value && !seen.has(value), `${value} twice`)
        seen.add(value)
      }
    }
  } finally {
    for (const s of [a, ...forks]) if (!(s instanceof Error)) await s.kill()
  }
}

// --- commands -------------------------------------------------------------------------------------

export async function command_foreground(s) {
  const r = await s.commands.run('echo out; echo err >&2')
  assert.deepEqual([r.exitCode, r.stdout, r.stderr], [0, 'out\n', 'err\n'])
  const e = await s.commands.run('echo before; exit 3').catch((e) => e)
  assert.ok(e instanceof CommandExitError, String(e))
  assert.deepEqual([e.exitCode, e.stdout], [3, 'before\n'])
  const seen = []
  await s.commands.run('for i in 1 2 3; do echo $i; sleep 0.05; done', { onStdout: (x) => { seen.push(x) } })
  assert.equal(seen.join(''), '1\n2\n3\n')
}

export async function command_options(s) {
  assert.equal((await s.commands.run('id -un; pwd; echo $HOME')).stdout, 'user\n/home/user\n/home/user\n')
  assert.equal((await s.commands.run('id -un; pwd', { user: 'root', cwd: '/tmp' })).stdout, 'root\n/tmp\n')
  assert.equal((await s.commands.run('echo "$A-$B"', { envs: { A: 'x y', B: 'ü' } })).stdout, 'x y-ü\n')
  await assert.rejects(s.commands.run('true', { cwd: '/nowhere' }), InvalidArgumentError)
  await assert.rejects(s.commands.run('true', { user: 'nobody-here' }), AuthenticationError)
}

export async function command_large_output(s) {
  const r = await s.commands.run('head -c 3000000 /dev/zero | tr "\\0" x; echo')
  assert.equal(r.stdout.length, 3000001)
  const many = await Promise.all(Array.from({ length: 40 }, (_, i) => s.commands.run(`echo ${i}; sleep 0.2`)))
  many.forEach((m, i) => assert.equal(m.stdout, `${i}\n`))
}

export async function command_background(s) {
  const h = await s.commands.run('sleep 0.3; echo done', { background: true })
  assert.ok(h.pid > 0)
  assert.ok((await s.commands.list()).some((p) => p.pid === h.pid))
  assert.equal((await h.wait()).stdout, 'done\n')
  assert.ok(!(await s.commands.list()).some((p) => p.pid === h.pid))
  const e = await s.commands.run('exit 7', { background: true }).then((x) => x.wait()).catch((x) => x)
  assert.equal(e.exitCode, 7)
}

export async function command_connect(s) {
  const h = await s.commands.run('sleep 0.5; echo late; sleep 0.3; exit 4', { background: true })
  await h.disconnect()
  const again = await s.commands.connect(h.pid)
  const e = await again.wait().catch((x) => x)
  assert.deepEqual([e.exitCode, e.stdout], [4, 'late\n'])
  await assert.rejects(s.commands.connect(999_999), NotFoundError)
}

export async function command_stdin(s) {
  const h = await s.commands.run('cat; echo over', { background: true, stdin: true })
  await h.sendStdin('first ')
  await s.commands.sendStdin(h.pid, Buffer.from('sécond\n'))
  await h.closeStdin()
  assert.equal((await h.wait()).stdout, 'first sécond\nover\n')
  assert.equal((await s.commands.run('cat | wc -c', { stdin: false })).stdout.trim(), '0')
}

export async function command_kill(s) {
  const h = await s.commands.run('trap "" TERM; (trap "" TERM; sleep 100) & echo up; wait; sleep 100', { background: true })
  await until('it runs', 10_000, () => h.stdout.includes('up'))
  assert.equal(await h.kill(), true)
  const e = await h.wait().catch((x) => x)
  assert.ok(e instanceof CommandExitError && e.exitCode !== 0, String(e))
  await until('nothing of it is left to kill', 5_000, async () => !(await s.commands.kill(h.pid)))
  await until('its children are gone', 5_000, async () =>
    (await s.commands.run('ps -ef 2>/dev/null || ps').catch((x) => x)).stdout.indexOf('sleep 100') < 0)
}

export async function command_timeout(s) {
  const t0 = Date.now()
  await assert.rejects(s.commands.run('sleep 77', { timeoutMs: 1000 }), TimeoutError)
  assert.ok(Date.now() - t0 < 8000)
  await until('it was killed', 8_000, async () => !(await s.commands.list()).some((p) => p.args.join(' ').includes('sleep 77')))
}

// --- files ----------------------------------------------------------------------------------------

export async function file_write_and_read(s) {
  const w = await s.files.write('notes/a.txt', 'grüße\n')
  assert.deepEqual([w.path, w.name, w.type], ['/home/user/notes/a.txt', 'a.txt', FileType.FILE])
  assert.equal(await s.files.read('notes/a.txt'), 'grüße\n')
  assert.equal(await s.files.read('/home/user/notes/a.txt'), 'grüße\n')
  assert.equal(await s.files.read('~/notes/a.txt'), 'grüße\n')
  await s.files.write('notes/a.txt', 'shorter')
  assert.equal(await s.files.read('notes/a.txt'), 'shorter')
  await s.files.write('notes/empty', '')
  assert.equal(await s.files.read('notes/empty'), '')
  assert.equal((await s.commands.run('stat -c %U:%a /home/user/notes/a.txt')).stdout.split(':')[0], 'user')
  await assert.rejects(s.files.read('notes/none'), FileNotFoundError)
  await assert.rejects(s.files.read('notes'), InvalidArgumentError)
  await assert.rejects(s.files.write('notes', 'a directory'), InvalidArgumentError)
  assert.match(await s.files.read('/proc/version'), /^Linux/)
}

export async function file_bytes(s) {
  const data = randomBytes(5_000_000)
  await s.files.write('/tmp/bytes', data.buffer.slice(data.byteOffset, data.byteOffset + data.length))
  assert.equal((await s.commands.run('sha256sum < /tmp/bytes')).stdout.slice(0, 64), digest(data))
  const back = await s.files.read('/tmp/bytes', { format: 'bytes' })
  assert.equal(digest(back), digest(data))
  const blob = await s.files.read('/tmp/bytes', { format: 'blob' })
  assert.equal(blob.size, data.length)
  await s.files.remove('/tmp/bytes')
}

export async function file_streams(s) {
  const block = randomBytes(1 << 20)
  const want = createHash('sha256')
  let sent = 0
  const up = new ReadableStream({
    pull(c) {
      if (sent++ === 24) return c.close()
      want.update(block)
      c.enqueue(new Uint8Array(block))
    },
  })
  await s.files.write('/tmp/stream', up)
  const expected = want.digest('hex')
  const got = createHash('sha256')
  for await (const chunk of await s.files.read('/tmp/stream', { format: 'stream' })) got.update(chunk)
  assert.equal(got.digest('hex'), expected)
  await s.files.remove('/tmp/stream')
}

export async function file_several(s) {
  const r = await s.files.write([{ path: 'several/1', data: 'one' }, { path: '/tmp/two', data: 'two' }, { path: 'several/deep/3', data: 'three' }])
  assert.deepEqual(r.map((x) => x.path), ['/home/user/several/1', '/tmp/two', '/home/user/several/deep/3'])
  assert.equal(await s.files.read('several/deep/3'), 'three')
  assert.deepEqual(await s.files.write([]), [])
}

export async function file_metadata_and_users(s) {
  const w = await s.files.write('tagged', 'x', { metadata: { Kind: 'note', n: '1' } })
  assert.deepEqual(w.metadata, { kind: 'note', n: '1' })
  assert.deepEqual((await s.files.getInfo('tagged')).metadata, { kind: 'note', n: '1' })
  await s.files.write('tagged', 'y')
  assert.ok(!Object.keys((await s.files.getInfo('tagged')).metadata ?? {}).length)
  const r = await s.files.write('of-root', 'r', { user: 'root' })
  assert.equal(r.path, '/root/of-root')
  assert.equal((await s.files.getInfo('of-root', { user: 'root' })).owner, 'root')
}

export async function file_tree(s) {
  assert.equal(await s.files.makeDir('tree/a/b'), true)
  assert.equal(await s.files.makeDir('tree/a/b'), false)
  await s.files.write('tree/a/file', '12345')
  await s.commands.run('ln -sf file tree/a/link; mkfifo tree/a/pipe; chmod 640 tree/a/file')
  const info = await s.files.getInfo('tree/a/file')
  assert.deepEqual([info.name, info.type, info.size, info.permissions, info.owner, info.group, info.path],
    ['file', FileType.FILE, 5, '-rw-r-----', 'user', 'user', '/home/user/tree/a/file'])
  assert.ok(Math.abs(info.modifiedTime - Date.now()) < 60_000)
  assert.equal((await s.files.getInfo('tree/a/link')).symlinkTarget, '/home/user/tree/a/file')
  const names = (await s.files.list('tree/a')).map((e) => e.name)
  assert.deepEqual(names, ['b', 'file', 'link'])
  assert.deepEqual((await s.files.list('tree', { depth: 2 })).map((e) => e.path.slice('/home/user/'.length)),
    ['tree/a', 'tree/a/b', 'tree/a/file', 'tree/a/link'])
  assert.equal(await s.files.exists('tree/a'), true)
  assert.equal(await s.files.exists('tree/none'), false)
  assert.equal((await s.files.rename('tree/a/file', 'tree/new/name')).path, '/home/user/tree/new/name')
  await assert.rejects(s.files.rename('tree/none', 'tree/x'), NotFoundError)
  await assert.rejects(s.files.list('tree/none'), NotFoundError)
  await assert.rejects(s.files.list('tree/new/name'), InvalidArgumentError)
  await s.files.remove('tree')
  assert.equal(await s.files.exists('tree'), false)
  await s.files.remove('tree')
}

export async function file_watch(s) {
  await s.files.remove('watched') // of the sandbox that this is a fork of
  await s.files.makeDir('watched')
  const events = []
  const w = await s.files.watchDir('watched', (e) => { events.push(e) }, { recursive: true, includeEntry: true })
  const has = (name, type) => until(`${type} of ${name}, had ${JSON.stringify(events)}`, 10_000, () => events.some((e) => e.name === name && e.type === type))
  await s.files.write('watched/one', '1')
  await has('one', 'create')
  await s.files.makeDir('watched/sub/deep')
  await has('sub', 'create')
  await s.files.write('watched/sub/deep/two', '2')
  await has('sub/deep/two', 'create')
  await s.commands.run('echo more >> watched/sub/deep/two; chmod 600 watched/one; mv watched/one watched/uno; rm watched/uno')
  await has('sub/deep/two', 'write')
  await has('one', 'chmod')
  await has('one', 'rename')
  await has('uno', 'create')
  await has('uno', 'remove')
  await w.stop()
  const n = events.length
  await s.files.write('watched/after', '')
  await sleep(300)
  assert.equal(events.length, n)
  await assert.rejects(s.files.watchDir('no-such', () => {}), NotFoundError)
}

export async function file_signed_urls(s) {
  await s.files.write('signed', 'secret')
  const url = await s.downloadUrl('signed')
  assert.equal(await (await fetch(url)).text(), 'secret')
  const bad = await fetch(url.replace(/signature=v1_../, 'signature=v1_AA'))
  assert.equal(bad.status, 401)
  const late = await s.downloadUrl('signed', { useSignatureExpiration: -10 })
  const expired = await fetch(late)
  assert.equal(expired.status, 401)
  assert.match(await expired.text(), /signature is already expired/)
  const form = new FormData()
  form.append('file', new Blob(['uploaded']), 'x')
  const up = await fetch(await s.uploadUrl('signed-up', { useSignatureExpiration: 60 }), { method: 'POST', body: form })
  assert.equal(up.status, 200, await up.text())
  assert.equal(await s.files.read('signed-up'), 'uploaded')
}

// --- terminals ------------------------------------------------------------------------------------

export async function pty(s) {
  let text = ''
  const decoder = new TextDecoder()
  const h = await s.pty.create({ cols: 90, rows: 33, onData: (d) => { text += decoder.decode(d, { stream: true }) }, timeoutMs: 60_000 })
  const type = (line) => s.pty.sendInput(h.pid, new TextEncoder().encode(line))
  await type('stty size; tty; echo $TERM\n')
  await until(`its size, had ${JSON.stringify(text)}`, 15_000, () => /33 90/.test(text) && /\/dev\/pts\/\d/.test(text) && /xterm-256color/.test(text))
  await s.pty.resize(h.pid, { cols: 120, rows: 40 })
  await type('stty size\n')
  await until('its new size', 15_000, () => /40 120/.test(text))
  await type('sleep 100\n')
  await sleep(300)
  await type('\x03')
  await type('echo back-$((20+3))\n')
  await until('the prompt after ^C', 15_000, () => /back-23/.test(text))
  await type('exit 5\n')
  const e = await h.wait().catch((x) => x)
  assert.equal(e.exitCode, 5)
  const k = await s.pty.create({ cols: 80, rows: 24, onData: () => {} })
  assert.equal(await s.pty.kill(k.pid), true)
  await until('it is gone', 5_000, async () => !(await s.pty.kill(k.pid)))
}

// --- git, against a daemon in the sandbox ---------------------------------------------------------

export async function git(s) {
  if ((await s.commands.run('command -v git || true')).stdout === '')
    throw new Error('there is no git in this template')
  await s.commands.run('rm -rf srv work; mkdir -p srv; git init -q --bare srv/repo.git; touch srv/repo.git/git-daemon-export-ok')
  const daemon = await s.commands.run('exec git daemon --reuseaddr --listen=127.0.0.1 --base-path=/home/user/srv --enable=receive-pack', { background: true })
  try {
    await s.git.configureUser('A Tester', 'tester@example.org')
    await until('the daemon answers', 20_000, () => s.git.clone('git://127.0.0.1/repo.git', { path: '/home/user/work' }).then(() => true, () => false))
    await s.files.write('/home/user/work/README', 'hello\n')
    let status = await s.git.status('/home/user/work')
    assert.equal(status.fileStatus.length, 1)
    await s.git.add('/home/user/work')
    await s.git.commit('/home/user/work', 'first')
    await s.git.createBranch('/home/user/work', 'topic')
    assert.equal((await s.git.branches('/home/user/work')).currentBranch, 'topic')
    await s.git.push('/home/user/work', { remote: 'origin', branch: 'topic', setUpstream: true })
    status = await s.git.status('/home/user/work')
    assert.equal(status.fileStatus.length, 0)
    assert.match((await s.commands.run('git -C srv/repo.git log --format=%an/%s topic')).stdout, /^A Tester\/first$/m)
  } finally {
    await daemon.kill()
  }
}

// --- metrics, hosts -------------------------------------------------------------------------------

export async function metrics(s) {
  const m = await s.getMetrics()
  assert.ok(m.length >= 1)
  const last = m[m.length - 1]
  assert.ok(last.cpuCount >= 1 && last.cpuUsedPct >= 0 && last.memTotal > 50e6 && last.memUsed > 1e6 && last.memUsed < last.memTotal)
  assert.ok(last.diskTotal > 0 && last.diskUsed <= last.diskTotal)
  assert.ok(Math.abs(last.timestamp - Date.now()) < 60_000)
}

function get(host, path) {
  const url = new URL(process.env.E2B_SANDBOX_URL)
  return new Promise((resolve, reject) => {
    http.get({ host: url.hostname, port: url.port, path, headers: { host } }, (res) => {
      let body = ''
      res.on('data', (d) => { body += d }).on('end', () => resolve({ status: res.statusCode, body })).on('error', reject)
    }).on('error', reject)
  })
}

export async function host_names(s) {
  const host = s.getHost(8080)
  assert.ok(host.startsWith(`8080-${s.sandboxId}.`), host)
  const closed = await get(host, '/')
  assert.equal(closed.status, 502)
  assert.equal(JSON.parse(closed.body).message, 'The sandbox is running but port is not open')
  await s.files.write('www/index.html', 'served from the sandbox')
  const server = await s.commands.run('cd www && if command -v python3 >/dev/null; then exec python3 -m http.server 8080 --bind 127.0.0.1; else exec httpd -f -p 127.0.0.1:8080; fi', { background: true })
  try {
    await until('the server answers', 20_000, async () => (await get(host, '/index.html')).status === 200)
    assert.equal((await get(host, '/index.html')).body, 'served from the sandbox')
    assert.equal((await get(host, '/none')).status, 404)
  } finally {
    await server.kill()
  }
  assert.equal((await get(`8080-${MISSING}.localhost`, '/')).status, 502)
}

// --- without memory, and woken by requests ---------------------------------------------------------

const bootId = async (s) => (await s.commands.run('cat /proc/sys/kernel/random/boot_id')).stdout

export async function control_pause_without_memory(_, template) {
  const a = await Sandbox.create(template, { envs: { COLOUR: 'blue' } })
  try {
    await a.files.write('/home/user/kept', 'on the disk')
    await a.files.write('/dev/shm/lost', 'in memory')
    const h = await a.commands.run('sleep 1000', { background: true })
    h.wait().catch(() => 0)
    const boot = await bootId(a)
    assert.equal(await a.pause({ keepMemory: false }), true)
    assert.equal(await a.pause({ keepMemory: false }), false)
    assert.equal((await a.getInfo()).state, 'paused')
    const b = await Sandbox.connect(a.sandboxId, { timeoutMs: 600_000 })
    assert.notEqual(await bootId(b), boot)
    assert.equal(await b.files.read('/home/user/kept'), 'on the disk')
    assert.equal(await b.files.exists('/dev/shm/lost'), false)
    assert.deepEqual(await b.commands.list(), [])
    assert.equal((await b.commands.run('echo $COLOUR; whoami')).stdout, 'blue\nuser\n')
  } finally {
    await a.kill()
  }
}

export async function control_reboot(_, template) {
  const a = await Sandbox.create(template)
  try {
    await a.files.write('/home/user/kept', 'on the disk')
    const boot = await bootId(a)
    await a.pause()
    const b = await Sandbox.connect(a.sandboxId, { onResume: 'reboot' })
    const second = await bootId(b)
    assert.notEqual(second, boot)
    assert.equal(await b.files.read('/home/user/kept'), 'on the disk')
    await b.pause()
    await Sandbox.connect(a.sandboxId, { onResume: 'restore' })
    assert.equal(await bootId(a), second)
  } finally {
    await a.kill()
  }
}

export async function control_auto_resume(_, template) {
  const a = await Sandbox.create(template, { lifecycle: { onTimeout: 'pause', autoResume: true } })
  try {
    assert.deepEqual((await a.getInfo()).lifecycle, { onTimeout: 'pause', autoResume: true })
    await a.setTimeout(0)
    await until('its time is up', 30_000, async () => (await a.getInfo()).state === 'paused')
    assert.equal(await a.isRunning(), false)
    assert.equal((await a.getInfo()).state, 'paused')
    const runs = await Promise.all([1, 2, 3, 4].map((i) => a.commands.run(`echo ${i}`)))
    assert.deepEqual(runs.map((r) => r.stdout), ['1\n', '2\n', '3\n', '4\n'])
    assert.equal(await a.isRunning(), true)
    assert.ok((await a.getInfo()).endAt - Date.now() > 200_000)
    await a.pause()
    assert.equal(await a.files.exists('/home/user'), true)
  } finally {
    await a.kill()
  }
}

export async function control_auto_pause_without_memory(_, template) {
  const a = await Sandbox.create(template, { lifecycle: { onTimeout: { action: 'pause', keepMemory: false } } })
  try {
    const boot = await bootId(a)
    await a.setTimeout(0)
    await until('its time is up', 30_000, async () => (await a.getInfo()).state === 'paused')
    await assert.rejects(a.commands.run('true'), SandboxNotFoundError)
    await Sandbox.connect(a.sandboxId)
    assert.notEqual(await bootId(a), boot)
  } finally {
    await a.kill()
  }
}

// --- sleep ----------------------------------------------------------------------------------------

export async function pause_and_connect(s) {
  const h = await s.commands.run('i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo $i > /tmp/counter-$E2B_SANDBOX_ID; sleep 0.05; done; echo finished; exit 6', { background: true, timeoutMs: 0 })
  await until('it counts', 10_000, async () => Number(await s.files.read('/tmp/counter-' + s.sandboxId).catch(() => 0)) > 3)
  const before = h.wait().catch((e) => e)
  assert.equal(await s.pause(), true)
  assert.equal(await Sandbox.pause(s.sandboxId), false)
  const ended = await Promise.race([before, sleep(3000).then(() => 'nothing')])
  assert.notEqual(ended, 'nothing', 'the stream neither ended nor failed within 3 s of the sleep')
  assert.equal((await Sandbox.getInfo(s.sandboxId)).state, 'paused')
  assert.equal(await s.isRunning(), false)
  await assert.rejects(s.commands.run('true'), (e) => e instanceof SandboxNotFoundError)
  const woken = await Sandbox.connect(s.sandboxId, { timeoutMs: 1_800_000 })
  const counter = Number(await woken.files.read('/tmp/counter-' + s.sandboxId))
  assert.ok((await woken.commands.list()).some((p) => p.pid === h.pid), 'the process is gone')
  const again = await woken.commands.connect(h.pid, { timeoutMs: 300_000 })
  await until('it goes on counting', 10_000, async () => Number(await woken.files.read('/tmp/counter-' + s.sandboxId)) > counter)
  const end = await again.wait().catch((e) => e)
  assert.deepEqual([end.exitCode, end.stdout], [6, 'finished\n'])
}
