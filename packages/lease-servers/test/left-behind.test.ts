import { expect } from 'chai'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** How a program starts a server, which it calls `server`, and all processes of it. */
const kinds = {
  PostgreSQL: ['const server = await startPostgres()', '[server]'],
  Redis: ['const server = await startRedis({ appendonly: true })', '[server]'],
  'Redis under sentinels': [
    'const server = await startRedisSentinel()',
    '[server.master, ...server.replicas, ...server.sentinelServers]',
  ],
  etcd: ['const server = await startEtcd({ nodes: 3 })', 'server.members'],
} as const

function program(kind: keyof typeof kinds): string {
  const [start, processes] = kinds[kind]
  return `
    import { startEtcd, startPostgres, startRedis, startRedisSentinel } from 'lease-servers'
    ${start}
    const processes = ${processes}
    if (process.argv.includes('paused')) for (const one of processes) one.pause()
    console.log(JSON.stringify(processes.map(({ pid }) => pid)))
    if (process.argv.includes('throw')) throw new Error('on purpose')
    if (!process.argv.includes('return')) setInterval(() => undefined, 1000)
  `
}

describe('a server whose starter has ended', function () {
  this.timeout(60_000) // processes are slow to start and to end on a busy machine
  let folder: string
  let child: ChildProcess | undefined

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'left-behind-'))
    chmodSync(folder, 0o755) // servers may run as somebody else
  })

  afterEach(() => {
    child?.kill('SIGKILL')
    rmSync(folder, { recursive: true, force: true })
  })

  async function startIn(kind: keyof typeof kinds, word: string): Promise<readonly number[]> {
    const node = ['--import', 'tsx', '--conditions', 'lease-source', '--input-type=module', '-e', program(kind), word]
    const started = spawn(process.execPath, node, {
      cwd: import.meta.dirname,
      stdio: ['ignore', 'pipe', 'ignore'],
      env: { ...process.env, NODE_OPTIONS: '', TMPDIR: folder },
    })
    child = started
    const [line] = (await once(started.stdout, 'data')) as [Buffer]
    return JSON.parse(String(line)) as number[]
  }

  async function gone(pids: readonly number[]): Promise<void> {
    for (let left = 2_000; left > 0 && (remains().length > 0 || pids.some(runs)); left--) {
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    expect(pids.filter(runs), 'processes that run').to.deep.equal([])
    expect(remains(), 'folders that exist').to.deep.equal([])
  }

  function remains(): readonly string[] {
    return readdirSync(folder).filter((name) => name.startsWith('lease-'))
  }

  function runs(pid: number): boolean {
    try {
      process.kill(pid, 0)
      return true
    } catch {
      return false
    }
  }

  for (const kind of Object.keys(kinds) as (keyof typeof kinds)[]) {
    for (const state of ['running', 'paused']) {
      it(`is gone with its folder after SIGKILL: ${kind}, ${state}`, async () => {
        const pids = await startIn(kind, state)
        expect(pids.filter(runs)).to.deep.equal(pids)
        expect(remains()).not.to.deep.equal([])
        child?.kill('SIGKILL')
        await gone(pids)
      })
    }
  }

  it('is gone with its folder after SIGINT', async () => {
    const pids = await startIn('PostgreSQL', 'running')
    child?.kill('SIGINT')
    await gone(pids)
  })

  for (const end of ['return', 'throw']) {
    it(`is gone with its folder after a ${end} without stop`, async () => {
      await gone(await startIn('PostgreSQL', end))
      await gone(await startIn('Redis', end))
    })
  }
})
